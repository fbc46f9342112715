"""What all editors share: sizes, names with options, parked encoders, LoRA in the diffusers format."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from editing.editors import ADAPTERS, load_editor
from editing.editors.buckets import ASPECTS, bucket
from editing.editors.editor import NotFiniteError, images_or_failures, to_images, unit_range
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.editors.lora import save_lora
from editing.editors.merge import merged, merged_bytes
from editing.weights import Policies, PolicyConfig
from mmreward.score import Failure


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


def _trained_lora(start, rank: int = 2, alpha: int = 8):
    """A copy of an editor with a random LoRA, and a prediction of both."""
    editor = copy.deepcopy(start)
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=rank, alpha=alpha))
    with torch.no_grad():
        for parameter in policies.parameters():
            parameter.normal_(std=0.3)
    return editor


def _prediction(editor):
    condition = editor.encode([Image.new("RGB", (64, 64), "red")], ["make the circle blue"])[0]
    x = editor.prior("g", 0, condition.latent_shape)[None]
    with torch.no_grad():
        return editor.predict(x, 0.5, condition).x0


@pytest.mark.parametrize("family", ["kontext", "ip2p"])
def test_alpha_of_an_exported_lora_is_in_its_weights(family, random_editor, ip2p_pipeline, tmp_path):
    """W + B A of the file, alone, is the trained network: no header is asked."""
    start = random_editor
    if family == "ip2p":
        start = InstructPix2PixEditor(ip2p_pipeline("sd"), "random", guidance=3.0, max_area=64 * 64, steps=4)
    editor = _trained_lora(start)
    save_lora(editor, tmp_path / "lora")
    file = tmp_path / "lora" / "pytorch_lora_weights.safetensors"
    tensors = load_file(file)
    assert not [name for name in tensors if "alpha" in name]
    by_hand = copy.deepcopy(start)
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            layer = by_hand.module.get_submodule(name.removesuffix(".lora_A.weight").partition(".")[2])
            layer.weight.data += tensors[name.replace("lora_A", "lora_B")] @ down
    assert torch.allclose(_prediction(by_hand), _prediction(editor), atol=1e-5)
    assert not torch.allclose(_prediction(start), _prediction(editor), atol=1e-2)
    save_file(tensors, file)  # without the header, as other tools write and read it
    plain = copy.deepcopy(start)
    plain.pipeline.load_lora_weights(tmp_path / "lora")
    assert torch.allclose(_prediction(plain), _prediction(editor), atol=1e-5)


def test_a_lora_is_merged_as_an_editor_is_loaded(random_editor, tmp_path):
    random_editor.save(tmp_path / "start")
    editor = _trained_lora(random_editor)
    save_lora(editor, tmp_path / "a+b")
    loaded = load_editor(f"{tmp_path / 'start'}?lora={tmp_path / 'a+b'}")
    assert torch.allclose(_prediction(loaded), _prediction(editor), atol=1e-5)
    assert not [name for name in loaded.module.state_dict() if "lora" in name]
    with pytest.raises(FileNotFoundError, match="has no pytorch_lora_weights.safetensors"):
        load_editor(f"{tmp_path / 'start'}?lora={tmp_path}")


def test_a_merge_copies_the_adapted_layers_alone(random_editor):
    """All other weights are shared with the network, which stays as it is."""
    editor = _trained_lora(random_editor)
    before = {name: tensor.clone() for name, tensor in editor.module.state_dict().items()}
    plain = merged(editor.module)
    theirs, ours = dict(plain.named_parameters()), dict(editor.module.named_parameters())
    assert list(theirs) == list(dict(random_editor.module.named_parameters()))
    pointers = {tensor.data_ptr() for tensor in ours.values()}
    adapted = {name for name, tensor in theirs.items() if tensor.data_ptr() not in pointers}
    assert adapted == {name.replace("base_layer.", "") for name in ours if name.endswith("base_layer.weight")}
    assert merged_bytes(editor.module) == sum(theirs[name].nbytes for name in adapted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in editor.module.state_dict().items())
    assert list(before) == list(editor.module.state_dict())


def test_a_merge_is_rounded_once(random_editor):
    editor = _trained_lora(random_editor)
    name = next(name for name, _ in editor.module.named_modules() if name.endswith("attn.to_q"))
    layer = editor.module.get_submodule(name)
    layer.base_layer.to(torch.bfloat16)
    change = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double() * 4  # alpha / rank
    exact = layer.base_layer.weight.double() + change
    found = merged(editor.module).get_submodule(name).weight
    assert found.dtype == torch.bfloat16
    assert ((found.double() - exact).abs() <= exact.abs() * 2.0**-8 + 1e-6).all()  # half of the last of eight bits


def test_an_editor_that_cannot_be_written_leaves_the_old_one(random_editor, tmp_path, monkeypatch):
    from editing.editors import conditioned

    editor = conditioned.conditioned(copy.copy(random_editor), scores=("quality",))
    editor.save(tmp_path / "model")
    old = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "model").iterdir()}

    def full(*_):
        raise OSError("no space left on the device")

    monkeypatch.setattr(conditioned, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        editor.save(tmp_path / "model")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "model").iterdir()} == old
    assert "conditioned.safetensors" in old


def test_an_editor_keeps_its_domain(random_editor, tmp_path):
    from editing.editors.conditioned import conditioned

    assert load_editor("tiny").domain == load_editor("tiny-ip2p").domain == "shapes"
    assert load_editor("tiny?domain=any").domain == "any" and random_editor.domain == "any"
    editor = copy.copy(random_editor)
    editor.domain = "shapes"
    editor.save(tmp_path / "saved")
    assert load_editor(str(tmp_path / "saved")).domain == conditioned(editor, scores=("quality",)).domain == "shapes"


def test_libraries_stay_silent(random_editor, tmp_path, capfd):
    from transformers.utils import logging

    logging.enable_progress_bar()  # a command that ran before in this process has switched it off for good
    editor = _trained_lora(random_editor)
    editor.save(tmp_path / "saved")
    load_editor(str(tmp_path / "saved"))
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "") and logging.is_progress_bar_enabled()


def test_a_hub_that_does_not_answer_is_said_in_one_sentence(monkeypatch):
    import time

    import huggingface_hub.utils

    class Silent:
        def head(self, address, timeout):
            raise TimeoutError(f"{address} did not answer within {timeout} seconds")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Silent)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"'some/editor' is not in the local cache.* cannot be reached \(TimeoutError"):
        load_editor("some/editor")
    assert time.monotonic() - began < 5


def test_what_lies_in_the_cache_asks_no_hub(monkeypatch):
    import huggingface_hub.utils

    from editing.editors.hub import offline_first

    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: pytest.fail("the hub was asked"))
    assert offline_first("some/editor", lambda local: local) is True


def test_pixels_that_are_not_finite_are_no_image():
    pixels = torch.rand(4, 3, 8, 8) * 2 - 1
    pixels[1, 0, 0, 0], pixels[2, 2, 7, 7] = torch.nan, torch.inf
    images = images_or_failures(unit_range(pixels))
    assert [isinstance(image, Failure) for image in images] == [False, True, True, False]
    assert images[1].status == "error" and "not finite" in images[1].error
    expected = ((pixels[3] / 2 + 0.5) * 255).round().to(torch.uint8).permute(1, 2, 0)
    assert (np.asarray(images[3]) == expected.numpy()).all()
    with pytest.raises(NotFiniteError, match="2 of 4 images: the editor's output is not finite"):
        to_images(unit_range(pixels))
    assert len(to_images(unit_range(pixels[[0, 3]]))) == 2


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
