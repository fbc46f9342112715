"""Training the bundled CLIP in miniature: deterministic batches, a loss that falls, a folder that loads."""

import json
import re

import numpy as np
import pytest
import yaml

from mmreward import load_reward
from mmreward.monotone import MonotoneMap
from mmreward.shapes import World
from mmreward.shapes.world import split_of
from mmreward.training import ConfigError

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from mmreward.fit.clip import run  # noqa: E402
from mmreward.fit.clip_data import build_tokenizer, make_batch, near_scenes  # noqa: E402

RECIPE = {
    "model": {"vision_width": 64, "vision_layers": 1, "text_width": 64, "text_layers": 1, "embed": 32},
    "data": {"groups": 2, "members": 10},
    "loop": {"steps": 6, "lr": 0.003, "warmup": 0, "log_every": 2, "ema": 0.9, "optimizer": "muon"},
    "measure": {"fit_tasks": 4, "test_tasks": 4},
}


def _tokenize(tokenizer):
    return lambda texts: tokenizer(texts, max_length=56, padding="max_length", return_tensors="pt")["input_ids"]


def test_a_batch_is_a_function_of_its_number():
    tokenize, world = _tokenize(build_tokenizer(samples=100)), World("train")
    a, b, other = (make_batch(world, tokenize, step, 2, 12, 0.5) for step in (3, 3, 4))
    assert torch.equal(a.images, b.images) and torch.equal(a.captions, b.captions)
    assert not torch.equal(a.images, other.images)
    assert a.images.shape == (24, 3, 64, 64) and a.instructions.shape == (2, 56)
    follows = a.follows.view(2, 12)
    assert not follows[:, 0].any() and follows[:, 1].all()  # the source does not follow, the true target does
    assert len(a.scenes.unique()) > 12


def test_near_scenes_stay_in_their_split():
    world = World("validation")
    scenes = near_scenes(world.task(0), 20, "validation", np.random.default_rng(0))
    assert {split_of(scene) for scene in scenes} == {"validation"}


def test_the_tokenizer_knows_every_word_of_the_world():
    tokenizer = build_tokenizer()
    for task in World("test", kept_out="include").tasks(200):
        for text in (task.instruction, task.source_caption, task.target_caption):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"], text


def test_training_ends_in_a_folder_that_loads(tmp_path):
    run(RECIPE, tmp_path, False)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < log[0]["loss"]
    folder = tmp_path / "model"
    about = json.loads((folder / "mmreward.json").read_text())
    assert about["domain"] == "shapes" and set(about["maps"]) >= {"alignment", "direction", "kept"}
    assert 0 <= about["numbers"]["with captions"]["pairs right"] <= 1
    assert (about["family"], about["taught_by"]) == ("open_clip ViT", "oracle")
    (ran,) = about["recipes"]
    assert ran["loop"]["steps"] == 6 and ran["model"]["embed"] == 32 and ran["loss"]["dense"] == 1.0  # a default, too
    assert "command" not in about and "lr: 0.003" in (folder / "README.md").read_text()
    assert "tiny-clip" in (folder / "README.md").read_text()
    stored = __import__("safetensors.torch").torch.load_file(folder / "open_clip_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    reward = load_reward(f"clip:{folder}")
    assert {p.dtype for p in reward.model.module.parameters()} == {torch.float32}
    run(RECIPE, tmp_path, True)  # finished: exports again, trains no further


def test_training_can_start_from_a_bundled_model(tmp_path):
    from mmreward.fit.clip import ModelConfig, Trainee, _start_from, model_config

    trainee = Trainee(model_config(ModelConfig(), 88))
    _start_from("tiny", trainee.clip)
    bundled = load_reward("clip:tiny").model.module.state_dict()
    assert torch.equal(trainee.clip.state_dict()["visual.proj"], bundled["visual.proj"])
    with pytest.raises(ValueError, match="sizes of this recipe"):
        run({**RECIPE, "start": "tiny"}, tmp_path, False)


def test_unknown_keys_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.wdth"):
        run({**RECIPE, "model": {"wdth": 3}}, tmp_path, False)


def test_a_run_that_goes_on_from_a_model_keeps_what_its_card_says():
    from mmreward.fit.card import history, history_text
    from mmreward.fit.clip import ClipRecipe
    from mmreward.training import read_config

    recipes = [read_config(ClipRecipe, {**RECIPE, "name": name}) for name in ("first", "second")]
    once = history(recipes[0], {"command": "mmreward train tiny-clip"})
    twice = history(recipes[1], once)
    assert twice["command"] == "mmreward train tiny-clip"
    assert [recipe["name"] for recipe in twice["recipes"]] == ["first", "second"]
    assert twice["recipes"] == [recipe.model_dump(mode="json") for recipe in recipes]
    text = history_text(twice)
    assert text.startswith("First trained by `mmreward train tiny-clip`. Then by these recipes")
    assert [yaml.safe_load(block)["name"] for block in re.findall("```yaml\n(.*?)```", text, re.S)] == [
        "first",
        "second",
    ]
    assert history_text({"command": "x"}) == "Trained by `x`."


def test_an_export_that_fails_leaves_the_older_model(tmp_path, monkeypatch):
    import mmreward.fit.clip_export as clip_export

    run(RECIPE, tmp_path, False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}

    def killed(reward, tasks):
        raise KeyboardInterrupt

    monkeypatch.setattr(clip_export, "fit_maps", killed)
    with pytest.raises(KeyboardInterrupt):
        run(RECIPE, tmp_path, True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_maps_are_fitted_with_untouched_copies_in():
    """The gain of an untouched copy is 0, and so is what it deserves: the map at 0 lies below what small moves get."""
    from mmreward.fit.clip_export import fit_maps

    found = fit_maps(load_reward("clip:tiny"), 12)
    gain = MonotoneMap.read(found["maps"]["gain"], "gain")
    assert gain(0.0) < 0.3 < gain(0.2)  # .36 without them
    assert sum(found["weights"][name] for name in ("instruction", "gain")) == pytest.approx(1, abs=2e-3)


def test_maps_can_be_fitted_anew_for_weights_that_stay(tmp_path):
    from mmreward.fit.clip_export import refit

    run(RECIPE, tmp_path, False)
    folder = tmp_path / "model"
    weights = (folder / "open_clip_model.safetensors").read_bytes()
    about = json.loads((folder / "mmreward.json").read_text())
    refit(folder, 5, 3)
    again = json.loads((folder / "mmreward.json").read_text())
    assert (folder / "open_clip_model.safetensors").read_bytes() == weights
    assert again["recipes"] == about["recipes"] and again["numbers"]["candidates"] == 48
    assert again["maps"] != about["maps"]
