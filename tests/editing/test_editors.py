"""What all editors share: sizes, names with options, parked encoders, LoRA in the diffusers format."""

import copy
import math

import pytest
import torch
from PIL import Image

from editing.editors import ADAPTERS, load_editor
from editing.editors.buckets import ASPECTS, bucket
from editing.editors.lora import save_lora
from editing.weights import Policies, PolicyConfig


def test_buckets_have_the_area_and_nearly_the_aspect():
    for width, height in [(640, 480), (480, 640), (4000, 3000), (1000, 999), (1920, 1080), (333, 700), (1180, 1000)]:
        rows, columns = bucket(width, height, 1024 * 1024, 16)
        assert rows % 16 == columns % 16 == 0
        assert rows * columns == pytest.approx(1024 * 1024, rel=0.02)
        assert abs(math.log(columns / rows) - math.log(width / height)) < math.log(1.1)
    assert bucket(500, 500, 64 * 64, 32) == (64, 64)
    assert bucket(1, 3000, 64 * 64, 8) == bucket(3, 7, 64 * 64, 8)  # beyond the tallest: the tallest


def test_buckets_are_few_and_mirrored():
    sizes = {bucket(width, height, 512 * 512, 16) for width in range(300, 900, 7) for height in range(300, 900, 7)}
    assert len(sizes) == len(ASPECTS)
    assert {(columns, rows) for rows, columns in sizes} == sizes
    assert max(b / a for a, b in zip(ASPECTS, ASPECTS[1:], strict=False)) < 1.17


def test_a_name_may_carry_options(random_editor, tmp_path):
    random_editor.save(tmp_path / "copy")
    editor = load_editor(f"{tmp_path / 'copy'}?dtype=bfloat16&guidance=1.5&steps=3&park=cpu", max_area=1024)
    assert (editor.guidance, editor.default_steps, editor.park, editor.max_area) == (1.5, 3, "cpu", 1024)
    assert editor.module.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="unknown option of KontextEditor 'guidanse'. Did you mean 'guidance'"):
        load_editor(f"{tmp_path / 'copy'}?guidanse=2")
    with pytest.raises(ValueError, match="option steps='many' cannot be read"):
        load_editor(f"{tmp_path / 'copy'}?steps=many")


def test_adapters_are_there():
    from importlib import import_module

    for pipeline, place in ADAPTERS.items():
        module, _, name = place.partition(":")
        assert pipeline in getattr(import_module(module), name).pipelines


def test_an_adapter_refuses_a_folder_of_another_family(random_editor, tmp_path):
    from editing.editors.qwen_image_edit import QwenImageEditEditor

    random_editor.save(tmp_path / "kontext")
    with pytest.raises(ValueError, match="is a FluxKontextPipeline; QwenImageEditEditor reads QwenImageEditPipeline"):
        QwenImageEditEditor.load(tmp_path / "kontext")


def test_text_encoders_wait_off_the_device(random_editor, monkeypatch):
    """With `park`, encoders come to the device for what is not cached, and leave it at once."""
    editor = copy.deepcopy(random_editor)
    editor.park = "meta"  # where they are told to go; the moves are only noted here
    moves: list[tuple[str, str]] = []
    for name in editor.encoders:
        part = getattr(editor.pipeline, name)
        monkeypatch.setattr(part, "to", lambda where, name=name: moves.append((name, str(where))))
        part.register_forward_pre_hook(lambda *_, name=name: moves.append((name, "works")))
    source = Image.new("RGB", (64, 64), "red")
    editor.encode([source], ["make the circle blue"])
    arrive, work, leave = ([(name, what) for name in editor.encoders] for what in ("cpu", "works", "meta"))
    assert (moves[:2], sorted(moves[2:-2]), moves[-2:]) == (arrive, work, leave)
    moves.clear()
    editor.encode([source], ["make the circle blue"])
    assert moves == []
    editor.to("cpu")
    assert moves == leave


def test_every_lora_parameter_gets_a_gradient(random_editor):
    editor = copy.deepcopy(random_editor)
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=2, alpha=4))
    with torch.no_grad():
        for parameter in policies.parameters():
            parameter.normal_(std=0.3)
    sources = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    condition = editor.collate(editor.encode(sources, ["make the circle blue", "remove the square"]))
    x = torch.stack([editor.prior("g", member, condition.latent_shape) for member in range(2)])
    editor.predict(x, torch.tensor([0.7, 0.4]), condition).x0.square().mean().backward()
    silent = [name for name, p in policies.present.items() if p.grad is None or not p.grad.abs().sum()]
    assert policies.present and silent == []


def test_lora_is_float32_on_a_bfloat16_network(random_editor, tmp_path):
    random_editor.save(tmp_path / "editor")
    editor = load_editor(f"{tmp_path / 'editor'}?dtype=bfloat16")
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=2, alpha=4))
    dtypes = {name: p.dtype for name, p in editor.module.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "lora" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "lora" not in name} == {torch.bfloat16}
    assert editor.dtype == torch.bfloat16
    condition = editor.encode([Image.new("RGB", (64, 64), "red")], ["make the circle blue"])[0]
    x = editor.prior("g", 0, condition.latent_shape)[None]
    with torch.autocast("cpu", torch.bfloat16):
        prediction = editor.predict(x, 0.5, condition)
    assert prediction.x0.dtype == prediction.eps.dtype == torch.float32
    prediction.x0.square().mean().backward()
    assert {p.grad.dtype for p in policies.parameters()} == {torch.float32}
    with torch.no_grad():
        before = editor.predict(x, 0.5, condition).x0
        for parameter in policies.parameters():
            parameter.normal_(std=0.3)
        after = editor.predict(x, 0.5, condition).x0
    save_lora(editor, tmp_path / "lora")
    plain = type(editor.pipeline).from_pretrained(tmp_path / "editor", dtype=torch.bfloat16)
    plain.load_lora_weights(tmp_path / "lora")
    with torch.no_grad():
        loaded = type(editor)(plain, max_tokens=editor.max_tokens).predict(x, 0.5, condition).x0
    assert (loaded - after).abs().mean() < (before - after).abs().mean() / 10


def test_exported_lora_works_in_plain_diffusers(random_editor, tmp_path):
    editor = copy.deepcopy(random_editor)
    with pytest.raises(ValueError, match="random has no LoRA adapter 'default' .there is: none."):
        save_lora(editor, tmp_path / "lora")
    plain = copy.deepcopy(editor.pipeline)
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=2, alpha=8))
    with torch.no_grad():
        for parameter in policies.parameters():
            parameter.normal_(std=0.3)
    save_lora(editor, tmp_path / "lora")
    plain.load_lora_weights(tmp_path / "lora")
    condition = editor.encode([Image.new("RGB", (64, 64), "red")], ["make the circle blue"])[0]
    x = editor.prior("g", 0, condition.latent_shape)[None]
    with torch.no_grad():
        expected, untrained = (e.predict(x, 0.5, condition).x0 for e in (editor, random_editor))
        loaded = type(editor)(plain, max_tokens=editor.max_tokens).predict(x, 0.5, condition).x0
    assert torch.allclose(loaded, expected, atol=1e-5)
    assert not torch.allclose(untrained, expected, atol=1e-2)
