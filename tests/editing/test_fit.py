"""The recipes of the bundled editor, for a few steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from editing.fit import editor as editor_recipe
from editing.fit import success
from editing.fit import vae as vae_recipe
from editing.fit.success import editor_success
from editing.fit.tiny import EditorShape, VAEShape, tiny_clip_tokenizer, tiny_t5_tokenizer, tiny_vae
from editing.fit.vae import reconstruct, set_principal_encoder
from mmreward.shapes import World
from mmreward.training import ConfigError

VAE = {"shape": {"channels": 48, "decoder_blocks": [0, 0, 0, 0], "latent_channels": 8}, "patches_of": 64}
LOOP = {"steps": 2, "lr": 1e-3, "log_every": 1, "ema": 0.9}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Both recipes, run for two steps."""
    folder = tmp_path_factory.mktemp("fit")
    vae_recipe.run({**VAE, "batch": 2, "checked": 4, "loop": LOOP}, folder / "vae", resume=False)
    recipe = {
        "vae": str(folder / "vae" / "model"),
        "shape": {
            "double_blocks": 1,
            "single_blocks": 1,
            "heads": 2,
            "head_dim": 16,
            "axes": [4, 6, 6],
            "text_width": 32,
        },
        "loop": {**LOOP, "optimizer": "muon"},
        "batch": 4,
        "triplets": 16,
        "checked": 4,
        "checked_minutes": 0,
    }
    editor_recipe.run(recipe, folder / "editor", resume=False)
    return folder


def test_exported_editor_loads_and_edits(trained):
    from editing.editors import load_editor

    editor = load_editor(str(trained / "editor" / "model"))
    about = json.loads((trained / "editor" / "model" / "mmreward.json").read_text())
    assert about["domain"] == "shapes" and editor.default_steps == 8
    assert "Its training data was flawed on purpose" in (trained / "editor" / "model" / "README.md").read_text()
    world = World("validation", kinds=editor_recipe.KINDS)
    tasks = [world.task(index) for index in range(4)]
    first, second = (editor_success(editor, tasks, steps=2, batch=size) for size in (4, 3))
    assert first.count == 4 and 0 <= first.success <= 1
    assert [t.overall for t in first.truths] == pytest.approx([t.overall for t in second.truths], nan_ok=True)


@pytest.mark.filterwarnings("error")
def test_an_editor_that_makes_nothing_readable(monkeypatch):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    monkeypatch.setattr(success, "candidates", lambda editor, sources, *args, **kwargs: [[noise] for _ in sources])
    tasks = [World("validation", kinds=("add",)).task(index) for index in range(3)]
    found = editor_success(None, tasks)
    assert (found.count, found.unreadable, found.success) == (3, 3, 0)
    assert np.isnan(found.overall) and np.isnan(found.overall_error)


def test_stored_in_bfloat16_without_pickle(trained):
    from safetensors.torch import load_file

    files = sorted((trained / "editor" / "model").rglob("*.safetensors"))
    assert len(files) == 4  # transformer, autoencoder, two text encoders
    assert all(tensor.dtype == torch.bfloat16 for file in files for tensor in load_file(file).values())
    assert not [f for f in (trained / "editor" / "model").rglob("*") if f.suffix in (".bin", ".pt", ".pkl")]


def test_principal_encoder_is_a_projection_on_patches():
    world = World("train", kept_out="include")
    images = np.stack([world.task(index).target_image for index in range(64)])
    vae = tiny_vae(VAEShape(channels=48, decoder_blocks=(0, 0, 0, 0), latent_channels=8))
    set_principal_encoder(vae, images)
    with torch.no_grad():
        latents = vae.encode(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1).latents
    flat = latents.permute(0, 2, 3, 1).reshape(-1, 8).double().numpy()
    patches = (images / 255).reshape(64, 8, 8, 8, 8, 3).swapaxes(2, 3).reshape(-1, 192)
    covariance = np.cov(flat, rowvar=False)
    # Uncorrelated, deviation 1/3 overall, coarse components stronger.
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-4
    assert flat.std() == pytest.approx(1 / 3, rel=0.02)
    assert (np.diff(np.diag(covariance)) < 1e-9).all()
    # Least squares from the latents finds exactly the variance of the first eight components.
    solved, *_ = np.linalg.lstsq(flat, patches - patches.mean(0), rcond=None)
    left = ((patches - patches.mean(0) - flat @ solved) ** 2).sum() / len(patches)
    variances = np.linalg.eigvalsh(np.cov(patches, rowvar=False, bias=True))[::-1]
    assert left == pytest.approx(variances[8:].sum(), rel=1e-3)
    assert reconstruct(vae, images[:3]).shape == (3, 64, 64, 3)


def test_world_words_are_single_tokens_and_any_text_can_be_read():
    words = ["make", "circle", "blue"]
    clip, t5 = tiny_clip_tokenizer(words, 16), tiny_t5_tokenizer(words, 16)
    assert clip.tokenize("Make circle blue.") == ["make</w>", "circle</w>", "blue</w>", ".</w>"]
    assert t5.tokenize("Make circle blue.") == ["▁Make", "▁circle", "▁blue", "."]
    assert clip.eos_token_id not in clip("zebra ∆", add_special_tokens=False).input_ids
    assert len(t5("zebra").input_ids) > 2


def test_triplets_are_read_back(trained):
    recipe = json.loads((trained / "editor" / "model" / "mmreward.json").read_text())
    assert "16 triplets" in recipe["data"]
    assert (trained / "editor" / "triplets.safetensors").is_file()


def test_training_goes_on_from_a_kontext_only(tmp_path):
    with pytest.raises(ConfigError, match="start: tiny-ip2p is no FLUX Kontext"):
        editor_recipe.run({"vae": "tiny", "start": "tiny-ip2p", "loop": LOOP}, tmp_path, resume=False)


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'flawd'; did you mean 'flawed'"):
        editor_recipe.run({"vae": "x", "flawd": 0.3, "loop": LOOP}, tmp_path, resume=False)
    with pytest.raises(FileNotFoundError, match="no trained autoencoder"):
        editor_recipe.run({"vae": str(tmp_path), "loop": LOOP}, tmp_path, resume=False)


def test_batches_depend_on_the_step_only():
    settings = vae_recipe.VAERecipe(loop=LOOP, batch=2)
    assert torch.equal(vae_recipe._batch(settings, 3), vae_recipe._batch(settings, 3))
    assert not torch.equal(vae_recipe._batch(settings, 3), vae_recipe._batch(settings, 4))


def test_shape_of_the_bundled_editor():
    assert EditorShape().head_dim == sum(EditorShape().axes)
    assert Image.fromarray(World("train").task(0).source_image).size == (64, 64)
