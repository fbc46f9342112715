"""Names of weights: whole files up to a size, samples of every tensor above it."""

import hashlib
import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from mmreward.fingerprint import fingerprint

SIZES = (4 << 20, 300, 40 << 10, 1 << 20, 0)


def sparse(path, changes=()):
    """A safetensors file of zeros with tensors of `SIZES` bytes; `changes`: tensor -> bytes at its middle."""
    ends = [sum(SIZES[: i + 1]) for i in range(len(SIZES))]
    header = json.dumps({
        f"t{i}": {"dtype": "U8", "shape": [size], "data_offsets": [end - size, end]}
        for i, (size, end) in enumerate(zip(SIZES, ends))
    } | {"__metadata__": {"format": "pt"}}).encode()  # fmt: skip
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for tensor, data in dict(changes).items():
            stream.seek(8 + len(header) + ends[tensor] - SIZES[tensor] + (SIZES[tensor] - len(data)) // 2)
            stream.write(data)
        stream.truncate(8 + len(header) + ends[-1])
    return path


def test_small_files_are_named_by_all_of_their_bytes(tmp_path):
    files = [sparse(tmp_path / "a.safetensors"), sparse(tmp_path / "b.safetensors", {1: b"x"})]
    whole = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert fingerprint(files) == f"sha256:{whole}"


@pytest.mark.parametrize(("tensor", "size"), [(0, 3 << 20), (1, 1), (2, 1), (3, 1 << 20)])
def test_large_files_that_differ_in_one_tensor_have_different_names(tmp_path, tensor, size):
    first = fingerprint([sparse(tmp_path / "model.safetensors")], whole=0)
    assert first == fingerprint([sparse(tmp_path / "model.safetensors")], whole=0)
    second = fingerprint([sparse(tmp_path / "model.safetensors", {tensor: b"\1" * size})], whole=0)
    assert first != second and first.startswith("sha256-samples:")


def test_a_model_fine_tuned_in_all_but_its_first_tensor_has_another_name(tmp_path):
    """Headers and the first bytes are the same."""
    base = {"a": torch.zeros(1000), "b": torch.randn(200, 300, generator=torch.Generator().manual_seed(0))}
    save_file(base, tmp_path / "model.safetensors")
    before = fingerprint([tmp_path / "model.safetensors"], whole=1000)
    save_file(base | {"b": base["b"] + 1e-4}, tmp_path / "model.safetensors")
    assert fingerprint([tmp_path / "model.safetensors"], whole=1000) != before


def test_a_file_over_a_gigabyte_is_named_by_samples_from_its_first_byte_to_its_last(tmp_path):
    header = json.dumps({"t": {"dtype": "U8", "shape": [3 << 30], "data_offsets": [0, 3 << 30]}}).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + (3 << 30))  # holes: nothing on the disk
    names = {fingerprint([path])}
    for place in (1 << 30, (3 << 30) - 1):
        with path.open("r+b") as stream:
            stream.seek(8 + len(header) + place)
            stream.write(b"\1")
        names.add(fingerprint([path]))
    assert len(names) == 3 and all(name.startswith("sha256-samples:") for name in names)


def test_what_is_no_safetensors_file_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="model.safetensors has no header"):
        fingerprint([tmp_path / "model.safetensors"], whole=0)
