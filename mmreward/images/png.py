"""The chunks of a PNG file (https://www.w3.org/TR/png-3/#5Chunk-layout).

Pillow refuses the whole file for a text or colour profile that unpacks to more than a megabyte, and for one wrong
checksum in a chunk that nobody needs; these files come from every image generator that writes its workflow into them.
"""

__all__ = ["SIGNATURE", "chunk_types_after_pixels", "without_metadata"]

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LONGEST_PROFILE = 16 << 20
_LONGEST_XMP = 1 << 20
_XMP = b"XML:com.adobe.xmp\0\0"
_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""Chunks that a decoder need not know, and that say what is to be seen (transparency, animation)."""


def without_metadata(data: bytes) -> tuple[bytes, bytes | None]:
    """(the file with nothing in it but pixels and orientation, its colour profile)."""
    kept, profile = [SIGNATURE], None
    for kind, body, chunk in _chunks(data):
        if kind == b"iCCP":
            profile = _unpacked_profile(body)
        elif _is_critical(kind) or kind in _PIXELS or (_holds_orientation(kind, body) and _is_whole(kind, body, chunk)):
            kept.append(chunk)
    return b"".join(kept), profile


def chunk_types_after_pixels(stream: BinaryIO) -> set[bytes]:
    """Types of the chunks that follow the first pixels; reads heads alone."""
    stream.seek(len(SIGNATURE))
    types: set[bytes] = set()
    has_pixels = False
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        has_pixels = has_pixels or kind == b"IDAT"
        if has_pixels:
            types.add(kind)
        stream.seek(length + 4, 1)
    return types


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(type, content, whole chunk); what is cut off at the end comes as it is."""
    place = len(SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        chunk = data[place : place + 12 + length]
        yield chunk[4:8], chunk[8 : 8 + length], chunk
        place += 12 + length


def _is_critical(kind: bytes) -> bool:
    return kind[:1].isupper() or len(kind) < 4


def _holds_orientation(kind: bytes, body: bytes) -> bool:
    return kind == b"eXIf" or (kind == b"iTXt" and body.startswith(_XMP) and len(body) <= _LONGEST_XMP)


def _is_whole(kind: bytes, body: bytes, chunk: bytes) -> bool:
    return chunk[-4:] == struct.pack(">I", zlib.crc32(kind + body))


def _unpacked_profile(body: bytes) -> bytes | None:
    _, _, packed = body.partition(b"\0")
    try:
        return zlib.decompressobj().decompress(packed[1:], _LONGEST_PROFILE)
    except zlib.error:
        return None
