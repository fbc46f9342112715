"""What an image is given as, and how messages name it.

A text is a path, a data URL, or base64 of an encoded image, as chat-style data sets carry images. Base64 is told from a
path by what it decodes to: the first bytes of an image format. Addresses (`https://…`) are never fetched.
"""

__all__ = ["ImageLike", "encoded_bytes", "is_address", "place", "shortened"]

import base64
import binascii
import os
import re
from typing import TYPE_CHECKING, Any, TypeAlias, Union
from urllib.parse import unquote_to_bytes

from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    import torch

ImageLike: TypeAlias = Union[Image.Image, str, os.PathLike[str], bytes, "np.ndarray[Any, Any]", "torch.Tensor"]
"""A PIL image, a path, encoded bytes, a data URL or base64 (str), or an array (`mmreward.images.arrays`)."""

_LEAST_BASE64 = 40
"""Characters; the smallest PNG has 90."""
_LONGEST_NAME = 300
"""Longer values are cut in messages."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SIGNATURES = re.compile(
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|BM....\0\0\0\0|II\*\0|MM\0\*|....ftypavi[fs]"
    rb"|\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    re.DOTALL,
)


def encoded_bytes(text: str) -> bytes | None:
    """The bytes of a data URL, or of base64 that holds an image; None for any other text (a path, an address). Raises
    ValueError for a data URL that cannot be decoded.
    """
    if text[:5].lower() == "data:":
        head, comma, data = text.partition(",")
        if not comma:
            raise ValueError("a data URL without data (no comma)")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(data)
        try:
            return base64.b64decode(unquote_to_bytes(data), validate=True)
        except binascii.Error as error:
            raise ValueError(f"a data URL whose base64 cannot be decoded: {error}") from None
    if len(text) < _LEAST_BASE64 or not _starts_as_image(text) or not _BASE64.fullmatch(text):
        return None
    digits = "".join(text.split()).rstrip("=")
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        return None


def _starts_as_image(text: str) -> bool:
    try:
        return _SIGNATURES.match(base64.b64decode(text[:32])) is not None
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        return False


def is_address(text: str) -> bool:
    """Whether `text` is an address such as `https://…`."""
    return _ADDRESS.match(text) is not None


def place(value: object, name: str) -> str:
    """What messages call the image `name` that is given as `value`."""
    return f"{name} image {shortened(os.fspath(value))}" if isinstance(value, str | os.PathLike) else f"{name} image"


def shortened(text: str | bytes) -> str:
    """`text` in quotes; a long one is cut in its middle, since values may be whole images."""
    if len(text) <= _LONGEST_NAME:
        return repr(text)
    return f"{text[:100]!r} … {text[-40:]!r} ({len(text):,} characters)"
