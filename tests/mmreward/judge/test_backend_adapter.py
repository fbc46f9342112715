"""LoRA adapters: merged as PEFT computes them, read strictly, named in provenance."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmreward.assets import model_folder
from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(adapter folder, logits of the model with the adapter beside it)."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = str(model_folder("tiny-judge"))
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    wrapped = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "up_proj"]))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("adapter")
    wrapped.save_pretrained(folder)
    with torch.no_grad():
        return folder, wrapped.eval()(input_ids=torch.arange(12)[None]).logits


@pytest.fixture
def adapter(trained, tmp_path):
    return shutil.copytree(trained[0], tmp_path / "adapter")


def logits(backend):
    with torch.no_grad():
        return backend.model(input_ids=torch.arange(12)[None]).logits


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file({name: value.contiguous() for name, value in change(weights).items()}, folder / WEIGHTS)


def test_the_merged_model_computes_what_peft_does(trained):
    folder, expected = trained
    plain = TransformersBackend.load(find_model("tiny"))
    merged = TransformersBackend.load(find_model("tiny"), adapter=folder)
    assert (logits(plain) - expected).abs().max() > 0.1
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=0)
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert merged.describe["adapter"].startswith("sha256:") and "adapter" not in plain.describe
    assert merged.describe["revision"] == plain.describe["revision"]


def test_the_folder_itself_names_its_base_or_is_told_it(adapter, trained):
    source = find_model(str(adapter))
    assert source.path == str(model_folder("tiny-judge"))
    torch.testing.assert_close(logits(TransformersBackend.load(source)), trained[1], atol=1e-4, rtol=0)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="give the option base"):
        find_model(str(adapter))
    assert find_model(str(adapter), base="tiny").adapter == str(adapter)
    with pytest.raises(ValueError, match="is none"):
        find_model("tiny", base="tiny")
    with pytest.raises(ValueError, match="base model of the adapter .*gone.*option base"):
        find_model(str(adapter), base="/gone")


def test_names_of_older_versions_of_transformers_are_translated(adapter, trained):
    rewrite(
        adapter,
        lambda weights: {
            name.replace("model.language_model.", "model.").replace("model.model.visual.", "model.visual."): value
            for name, value in weights.items()
        },
    )
    torch.testing.assert_close(
        logits(TransformersBackend.load(find_model(str(adapter)))), trained[1], atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: dict(list(w.items())[1:]), "missing: base_model"),
        (
            lambda w: w | {"base_model.model.other.lora_A.weight": torch.ones(2, 2)},
            "unexpected: base_model.model.other",
        ),
        (lambda w: {n: v[:1] if "lora_A" in n else v for n, v in w.items()}, "of another shape: .* instead of"),
        (lambda w: {n: torch.zeros_like(v) if "lora_B" in n else v for n, v in w.items()}, "changes nothing"),
        (lambda w: {n: torch.full_like(v, torch.nan) for n, v in w.items()}, "cannot be merged"),
    ],
)
def test_weights_that_do_not_fit_are_refused(adapter, change, message):
    rewrite(adapter, change)
    with pytest.raises(ValueError, match=message):
        TransformersBackend.load(find_model(str(adapter)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3'"),
        ({"init_lora_weights": "pissa"}, "changes the base model"),
        ({"target_modules": ["nothing_like_it"]}, "does not fit the model"),
    ],
)
def test_adapters_of_another_kind_are_refused(adapter, change, message):
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        TransformersBackend.load(find_model(str(adapter)))


def test_files_that_are_missing_broken_or_pickled_are_refused(adapter, tmp_path):
    (adapter / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be read"):
        TransformersBackend.load(find_model("tiny"), adapter=adapter)
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model.bin can run code"):
        find_model(str(adapter))
    (adapter / "adapter_config.json").write_text("{")
    (adapter / WEIGHTS).write_bytes(b"")
    with pytest.raises(ValueError, match="is not JSON"):
        find_model(str(adapter))
    with pytest.raises(ValueError, match="holds no adapter_config.json"):
        TransformersBackend.load(find_model("tiny"), adapter=tmp_path)
