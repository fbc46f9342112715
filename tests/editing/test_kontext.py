"""The Kontext adapter against the diffusers pipeline it stands for."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from editing.editors import load_editor
from editing.editors.editor import to_images
from editing.rollout import rollout
from editing.transition import ODE

INSTRUCTIONS = ["make the circle blue", "remove the red square"]


def _source(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _sample(editor, condition, steps=4):
    x = torch.stack([editor.prior("group", member, condition.latent_shape) for member in range(len(condition))])
    return x, rollout(editor, condition, x, editor.schedule(steps, condition.latent_shape), ODE())


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
def test_ode_rule_gives_the_pipelines_own_output(random_editor, size):
    sources = [_source(0, size), _source(1, size)]
    condition = random_editor.collate(random_editor.encode(sources, INSTRUCTIONS))
    assert condition.size == size
    x, trajectory = _sample(random_editor, condition)
    options = dict(
        height=size[0],
        width=size[1],
        max_area=size[0] * size[1],
        num_inference_steps=4,
        guidance_scale=2.5,
        max_sequence_length=32,
        _auto_resize=False,
    )
    expected = random_editor.pipeline(sources, INSTRUCTIONS, latents=x, output_type="latent", **options).images
    assert torch.allclose(trajectory.final, expected, atol=1e-4)
    images = random_editor.pipeline(sources, INSTRUCTIONS, latents=x, output_type="np", **options).images
    ours = random_editor.decode(trajectory.final, condition).permute(0, 2, 3, 1).detach().numpy()
    assert np.allclose(ours, images, atol=1e-4)


def test_oblong_sources_keep_their_aspect_ratio(random_editor):
    condition = random_editor.collate(random_editor.encode([_source(0, (64, 128))], INSTRUCTIONS[:1]))
    assert condition.size == (48, 96)  # 45.25 x 90.5 pixels, to the nearest multiples of 16
    assert condition.latent_shape == (18, 16)
    assert random_editor.decode(torch.zeros(1, 18, 16), condition).shape == (1, 3, 48, 96)


def test_conditions_do_not_depend_on_what_is_encoded_beside_them(random_editor):
    """A resumed run encodes in other company than one that was never stopped, and must see the same bytes."""
    sources = [_source(0), _source(1, (64, 128)), _source(2)]
    texts = [*INSTRUCTIONS, "add a green square at the top"]
    random_editor.forget()
    together = random_editor.encode(sources, texts)
    random_editor.forget()
    alone = [random_editor.encode([source], [text])[0] for source, text in zip(sources, texts)]
    for one, other in zip(together, alone):
        assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_one_resolution_a_batch(random_editor):
    conditions = random_editor.encode([_source(0), _source(0, (64, 128))], INSTRUCTIONS)
    with pytest.raises(ValueError, match="one resolution a batch"):
        random_editor.collate(conditions)


def test_conditions_are_cached_by_pixels_and_text(random_editor):
    first, again = random_editor.encode([_source(0), _source(0)], [INSTRUCTIONS[0]] * 2)
    other_text, other_image = random_editor.encode([_source(0), _source(1)], [INSTRUCTIONS[1], INSTRUCTIONS[0]])
    assert first is again
    assert first is not other_text and first is not other_image
    assert not torch.equal(first.tensors["text"], other_text.tensors["text"])


def test_a_member_does_not_depend_on_its_batch(random_editor):
    sources = [_source(0), _source(1)]
    batch = random_editor.collate(random_editor.encode(sources, INSTRUCTIONS))
    _, together = _sample(random_editor, batch)
    x, _ = _sample(random_editor, batch)
    sigmas = random_editor.schedule(4, batch.latent_shape)
    alone = rollout(random_editor, batch.select([1]), x[1:], sigmas, ODE())
    assert torch.allclose(together.final[1:], alone.final, atol=1e-5)


def test_schedule_falls_from_one_to_zero(random_editor):
    sigmas = random_editor.schedule(6, (16, 16))
    assert sigmas[0] == 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all() and len(sigmas) == 7


def test_prior_is_seeded_by_group_and_member(random_editor):
    one = random_editor.prior("a", 0, (16, 16))
    assert torch.equal(one, random_editor.prior("a", 0, (16, 16)))
    assert not torch.equal(one, random_editor.prior("a", 1, (16, 16)))
    assert not torch.equal(one, random_editor.prior("b", 0, (16, 16)))


def test_saved_folder_edits_the_same(random_editor, tmp_path):
    random_editor.save(tmp_path / "copy")
    copy = load_editor(str(tmp_path / "copy"))
    assert (copy.max_tokens, copy.max_area, copy.default_steps) == (32, 64 * 64, 4)
    condition = random_editor.collate(random_editor.encode([_source(0)], INSTRUCTIONS[:1]))
    again = copy.collate(copy.encode([_source(0)], INSTRUCTIONS[:1]))
    _, first = _sample(random_editor, condition)
    _, second = _sample(copy, again)
    assert torch.allclose(first.final, second.final, atol=1e-5)
    assert to_images(copy.decode(second.final, again))[0].size == (64, 64)
    assert not list((tmp_path / "copy").rglob("*.bin"))
    copy.save(tmp_path / "of the copy")
    assert not [path for path in (tmp_path / "of the copy").rglob("*.json") if str(tmp_path) in path.read_text()]


def test_stored_bfloat16_loads_as_float32(random_editor, tmp_path):
    random_editor.save(tmp_path / "half", dtype=torch.bfloat16)
    assert random_editor.module.dtype == torch.float32
    assert load_editor(str(tmp_path / "half")).module.dtype == torch.float32


def test_unknown_editor_names_what_there_is(tmp_path):
    with pytest.raises(ValueError, match="unknown editor 'tinny'; did you mean 'tiny'"):
        load_editor("tinny")
    with pytest.raises(FileNotFoundError, match="no model_index.json"):
        load_editor(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="no adapter for the pipeline class 'FluxPipeline'"):
        load_editor(str(tmp_path))


def test_lora_is_merged_when_saved(random_editor, tmp_path):
    from peft import LoraConfig

    editor = copy.deepcopy(random_editor)
    condition = editor.collate(editor.encode([_source(0)], INSTRUCTIONS[:1]))
    x = editor.prior("g", 0, condition.latent_shape)[None]
    with torch.no_grad():
        before = editor.predict(x, 0.5, condition).x0
        config = LoraConfig(r=2, target_modules=list(editor.lora_targets), init_lora_weights=False)
        editor.module.add_adapter(config)
        adapted = editor.predict(x, 0.5, condition).x0
        editor.save(tmp_path / "merged")
        still = editor.predict(x, 0.5, condition).x0
        merged = load_editor(str(tmp_path / "merged")).predict(x, 0.5, condition).x0
    assert not torch.allclose(before, adapted, atol=1e-3)
    assert torch.equal(adapted, still)
    assert torch.allclose(adapted, merged, atol=1e-4)
