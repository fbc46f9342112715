"""Model folders that cannot be used: what is missing, what is refused."""

import shutil

import pytest

from mmreward.assets import model_folder
from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(model_folder("tiny-judge"), tmp_path / "judge")


def test_pickle_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickle weights only \(pytorch_model.bin\).*safetensors"):
        find_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"incomplete: .*{name}"):
        find_model(str(folder))


def test_a_missing_shard_is_named(folder):
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match="model-00002-of-00002.safetensors missing"):
        find_model(str(folder))


def test_broken_weights_are_a_plain_message(folder):
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="cannot be loaded"):
        TransformersBackend.load(find_model(str(folder)))


def test_missing_weights_are_not_made_up(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("layers.0.mlp.up_proj.weight"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="layers.0.mlp.up_proj.weight"):
        TransformersBackend.load(find_model(str(folder)))


def test_a_broken_card_is_named(folder):
    (folder / "mmreward.json").write_text("{")
    with pytest.raises(ValueError, match="mmreward.json is not JSON"):
        find_model(str(folder))


def test_names_that_are_no_model(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        find_model(str(tmp_path / "gone"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        find_model(str(tmp_path / "file"))
    assert not find_model("Qwen/Qwen2.5-VL-7B-Instruct", "main").is_folder


def test_the_fingerprint_is_that_of_the_weights(folder):
    before = find_model(str(folder)).fingerprint()
    assert before == find_model("tiny").fingerprint()
    with (folder / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    assert find_model(str(folder)).fingerprint() != before
