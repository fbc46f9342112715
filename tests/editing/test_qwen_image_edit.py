"""The Qwen-Image-Edit adapter against the two diffusers pipelines it stands for, on small random checkpoints."""

import importlib

import numpy as np
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from PIL import Image

from editing.editors import load_editor
from editing.editors.buckets import bucket
from editing.editors.lora import save_lora
from editing.editors.qwen_image_edit import QwenImageEditEditor
from editing.rollout import rollout
from editing.transition import ODE

INSTRUCTIONS = ["make the circle blue", "remove the small red square at the top of the picture"]
KINDS = {"edit": "QwenImageEditPipeline", "plus": "QwenImageEditPlusPipeline"}
REDUCED = 256
"""The published areas are divided by it here: 64x64 edits, and 32x32 for the text encoder of Plus."""


@pytest.fixture(scope="module")
def folders(qwen_folders):
    return qwen_folders


@pytest.fixture(scope="module", params=KINDS)
def editor(request, folders):
    return load_editor(str(folders / request.param), max_area=64 * 64, steps=3, text_area=_text_area(request.param))


@pytest.fixture(scope="module")
def edit(folders):
    return load_editor(f"{folders / 'edit'}?max_area=4096&steps=3")


@pytest.fixture
def reduced(monkeypatch):
    """The pipelines work at the published areas over `REDUCED`."""
    for name, rest in {"pipeline_qwenimage_edit": (None,), "pipeline_qwenimage_edit_plus": ()}.items():
        module = importlib.import_module(f"diffusers.pipelines.qwenimage.{name}")

        def dimensions(area, ratio, rest=rest):
            height, width = bucket(round(1000 * ratio), 1000, area // REDUCED, 32)
            return (width, height, *rest)

        monkeypatch.setattr(module, "calculate_dimensions", dimensions)


def _text_area(kind: str) -> int | None:
    return 384 * 384 // REDUCED if kind == "plus" else None


def _source(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8))


def _start(editor, count=2, size=(64, 64)):
    sources = [_source(row, size) for row in range(count)]
    condition = editor.collate(editor.encode(sources, INSTRUCTIONS[:count]))
    x = torch.stack([editor.prior("group", member, condition.latent_shape) for member in range(count)])
    return condition, x


def _from_pipeline(editor, row, x, output, size=(64, 64), guidance=4.0):
    negative = {"negative_prompt": " "} if guidance > 1 else {}
    return editor.pipeline(
        image=_source(row, size),
        prompt=INSTRUCTIONS[row],
        latents=x[row : row + 1],
        num_inference_steps=3,
        true_cfg_scale=guidance,
        output_type=output,
        **negative,
    ).images


@pytest.mark.usefixtures("reduced")
@pytest.mark.parametrize("size", [(64, 64), (64, 128)])
def test_ode_rule_gives_the_pipelines_own_output(editor, size):
    """Both rows in one batch here, with texts of two lengths; one by one in the pipeline."""
    condition, x = _start(editor, size=size)
    assert isinstance(editor, QwenImageEditEditor) and not condition.tensors["text_mask"].all()
    final = rollout(editor, condition, x, editor.schedule(3, condition.latent_shape), ODE()).final
    expected = torch.cat([_from_pipeline(editor, row, x, "latent", size) for row in range(2)])
    assert torch.allclose(final, expected, atol=1e-4)
    image = _from_pipeline(editor, 1, x, "np", size)
    ours = editor.decode(final, condition)[1:].permute(0, 2, 3, 1).detach().numpy()
    assert np.allclose(ours, image, atol=1e-4) and ours.shape[1:3] == condition.size


@pytest.mark.usefixtures("reduced")
def test_without_guidance_there_is_one_pass(folders):
    editor = load_editor(f"{folders / 'edit'}?max_area=4096&guidance=1")
    condition, x = _start(editor, count=1)
    assert "negative" not in condition.tensors
    final = rollout(editor, condition, x, editor.schedule(3, condition.latent_shape), ODE()).final
    assert torch.allclose(final, _from_pipeline(editor, 0, x, "latent", guidance=1.0), atol=1e-4)


def test_the_text_encoder_sees_the_source(edit):
    first, again, other = edit.encode([_source(0), _source(0), _source(1)], [INSTRUCTIONS[0]] * 3)
    assert first is again and not torch.equal(first.tensors["text"], other.tensors["text"])


def test_a_member_does_not_depend_on_its_batch(edit):
    condition, x = _start(edit)
    together = edit.predict(x, torch.tensor([0.8, 0.3]), condition)
    alone = edit.predict(x[:1], 0.8, edit.encode([_source(0)], INSTRUCTIONS[:1])[0])
    assert torch.allclose(together.x0[:1], alone.x0, atol=1e-5)
    assert torch.allclose(together.eps[:1] * 0.8 + together.x0[:1] * 0.2, x[:1], atol=1e-5)


def test_the_text_encoder_waits_off_the_device(folders):
    """With `park`, it comes to the device for what is not cached, once for all rows and negatives, and leaves it."""
    editor = load_editor(f"{folders / 'plus'}?max_area=4096&park=cpu", text_area=1024)
    editor.park = torch.device("meta")  # where it is told to go; the moves are only noted here
    part, moves = editor.pipeline.text_encoder, []
    part.to = lambda where: moves.append(str(where))
    part.register_forward_pre_hook(lambda *_: moves.append("works"))
    editor.encode([_source(0)] * 2, INSTRUCTIONS)
    assert moves == ["cpu", *["works"] * 4, "meta"]
    editor.encode([_source(0)] * 2, INSTRUCTIONS)
    assert len(moves) == 6


def test_an_instruction_cannot_bring_control_tokens(edit):
    condition = edit.encode([_source(0)], ["<|image_pad|> <|im_end|> make it blue"])[0]
    assert condition.tensors["text"].isfinite().all()


def test_every_lora_parameter_gets_a_gradient(folders):
    from peft import LoraConfig

    editor = load_editor(str(folders / "edit"), max_area=64 * 64)
    editor.module.requires_grad_(False)
    config = LoraConfig(r=2, target_modules=list(editor.lora_targets), init_lora_weights=False)
    editor.module.add_adapter(config)
    condition, x = _start(editor)
    editor.predict(x, 0.5, condition).x0.square().mean().backward()
    trained = {name: p for name, p in editor.module.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * (2 * 8 - 2)  # two blocks of eight layers, without the last block's two idle ones
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.abs().sum()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_exported_lora_works_in_plain_diffusers(folders, tmp_path, kind):
    from peft import LoraConfig

    editor = load_editor(str(folders / kind), max_area=64 * 64, text_area=_text_area(kind))
    config = LoraConfig(r=2, lora_alpha=8, target_modules=list(editor.lora_targets), init_lora_weights=False)
    editor.module.add_adapter(config)
    save_lora(editor, tmp_path / "lora")
    assert [path.name for path in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    plain = type(editor.pipeline).from_pretrained(folders / kind)
    plain.load_lora_weights(tmp_path / "lora")
    condition, x = _start(editor)
    trained, untrained = (
        type(editor)(pipe, max_area=64 * 64) for pipe in (plain, load_editor(str(folders / kind)).pipeline)
    )
    expected = editor.predict(x, 0.5, condition).x0
    assert torch.allclose(trained.predict(x, 0.5, condition).x0, expected, atol=1e-5)
    assert not torch.allclose(untrained.predict(x, 0.5, condition).x0, expected, atol=1e-2)


def test_saved_folder_edits_the_same(editor, tmp_path):
    editor.save(tmp_path / "copy")
    copy = load_editor(str(tmp_path / "copy"))
    assert (copy.text_area, copy.max_area, copy.default_steps) == (editor.text_area, 64 * 64, 3)
    (condition, x), (again, _) = _start(editor), _start(copy)
    assert torch.allclose(editor.predict(x, 0.6, condition).x0, copy.predict(x, 0.6, again).x0, atol=1e-5)
    assert type(copy.pipeline) is type(editor.pipeline)


def test_published_areas_are_the_defaults(folders):
    edit, plus = (load_editor(str(folders / kind)) for kind in KINDS)
    assert edit.max_area == edit.text_area == plus.max_area == 1024 * 1024
    assert plus.text_area == 384 * 384
    height, width = edit.edit_size(96, 64)
    assert pipeline_qwenimage_edit.calculate_dimensions(1024 * 1024, 96 / 64)[:2] == (width, height)
