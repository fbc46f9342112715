"""Which weights these are: a name for the content of safetensors files, the same wherever they lie.

Up to a gigabyte in all it is the SHA-256 of the bytes ("sha256:…"). Larger files are not read whole: hashed are each
file's name, size and header, and of every tensor `_PLACES` pieces of `_PIECE` bytes at equal distances from its first
to its last byte ("sha256-samples:…"; a small tensor is read whole). So two models of one architecture differ in their
names wherever training changed a tensor as a whole, as fine-tuning and merged adapters do. A change of a few numbers
in the midst of a large tensor may be missed. Sixteen gigabytes take less than a second.
"""

__all__ = ["WHOLE", "fingerprint"]

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

WHOLE = 1 << 30
"""Bytes in all up to which files are hashed whole."""

_PLACES, _PIECE = 4, 16 << 10
_LONGEST_HEADER = 100 << 20
"""The format's own limit."""


def fingerprint(files: Iterable[Path], whole: int = WHOLE) -> str:
    """The name of the weights in safetensors files, in their order. Raises ValueError for a file that is none."""
    files = list(files)
    digest = hashlib.sha256()
    if sum(file.stat().st_size for file in files) <= whole:
        for file in files:
            with file.open("rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        return f"sha256:{digest.hexdigest()}"
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size};".encode())
        with file.open("rb") as stream:
            for piece in _samples(stream, file):
                digest.update(piece)
    return f"sha256-samples:{digest.hexdigest()}"


def _samples(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """The header of a safetensors file, then pieces of its tensors. The format: eight bytes with the header's length, a
    JSON header with the `data_offsets` of each tensor, the data (https://github.com/huggingface/safetensors).
    """
    length = int.from_bytes(stream.read(8), "little")
    header = stream.read(min(length, _LONGEST_HEADER))
    yield header
    try:
        tensors = json.loads(header)
        spans = sorted(tuple(about["data_offsets"]) for name, about in tensors.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} has no header of a safetensors file; copy it again") from None
    data = 8 + len(header)
    for start, end in spans:
        for place in sorted({max(start, start + (end - start - _PIECE) * i // (_PLACES - 1)) for i in range(_PLACES)}):
            stream.seek(data + place)
            yield stream.read(min(_PIECE, end - place))
