"""An edit: an instruction, the source image and the edited image, with what else is known about them.

Images are given as a path, encoded bytes, a data URL or base64, a PIL image, or a numpy or torch array
(`mmreward.images.arrays` says of which shapes), and open when they are first needed. Whatever comes in, `Edit.image`
returns 8-bit RGB in sRGB (a mask: 8-bit grey), turned upright by its orientation; `mmreward.images.opening` has the
rules. Decoded images are kept in a cache of bounded size (`mmreward.images.cache`), not in the edit.

What cannot be opened raises `ImageError`; rewards turn it into a score with status `io_error`.
"""

__all__ = ["Edit", "ImageError", "ImageLike", "FORMATS", "MAX_PIXELS", "fit", "image_size", "open_image"]

import hashlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NoReturn

from PIL import Image

from mmreward.images import CACHE, FORMATS, MAX_PIXELS, ImageError, ImageLike, encoded_bytes, image_size, open_image
from mmreward.images.arrays import is_array

ImageName = Literal["source", "edited", "mask", "target"]


@dataclass(frozen=True, eq=False)
class Edit:
    """One edit to be scored. Immutable; two edits are the same edit when their `key` agrees.

    `mask` is white where the edit may change the image and black where it may not. `criteria` says in words what this
    row requires. `target` is a known good result, `inputs` are further input images of an edit that has several. `meta`
    travels with the edit and influences nothing.
    """

    instruction: str
    source: ImageLike
    edited: ImageLike
    criteria: str | None = field(default=None, kw_only=True)
    mask: ImageLike | None = field(default=None, kw_only=True)
    target: ImageLike | None = field(default=None, kw_only=True)
    inputs: Sequence[ImageLike] = field(default=(), kw_only=True)
    source_caption: str | None = field(default=None, kw_only=True)
    target_caption: str | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    meta: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("instruction", "criteria", "source_caption", "target_caption", "id"):
            value = getattr(self, name)
            if not isinstance(value, str) and (name == "instruction" or value is not None):
                raise TypeError(f"Edit.{name} must be a string, got {type(value).__name__}")
        if isinstance(self.inputs, Image.Image | str | os.PathLike | bytes) or is_array(self.inputs):
            raise TypeError("Edit.inputs must be a list of images, got a single one; write [image]")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "meta", dict(self.meta or {}))

    def has(self, name: ImageName) -> bool:
        """Whether an image of this name was given (it may still turn out unreadable)."""
        return getattr(self, name) is not None

    def image(self, name: ImageName) -> Image.Image:
        """The image as 8-bit RGB (a mask: "L"). Raises `ImageError`. Do not change it in place, nor what was given."""
        return self._open(getattr(self, name), name)

    def input_images(self) -> list[Image.Image]:
        """`inputs` as 8-bit RGB. Raises `ImageError`."""
        return [self._open(value, f"input {number}") for number, value in enumerate(self.inputs, 1)]

    @cached_property
    def group(self) -> str:
        """Name of the group of candidates that this edit belongs to: source pixels and instruction."""
        return _digest(self.instruction, self._pixels(self.source, "source"))

    @cached_property
    def key(self) -> str:
        """Name of everything that a reward can see: equal keys, equal scores. Never the id, meta or a path."""
        optional = [self._pixels(getattr(self, name), name) if self.has(name) else None for name in ("mask", "target")]
        inputs = [self._pixels(value, f"input {number}") for number, value in enumerate(self.inputs, 1)]
        texts = [self.source_caption, self.target_caption, self.criteria]
        return _digest(self.group, self._pixels(self.edited, "edited"), *optional, *texts, *inputs)

    def _open(self, value: ImageLike, name: str) -> Image.Image:
        key = self._cache_key(value, name)
        kept = None if key is None else CACHE.get(key)
        if kept is not None:
            return kept
        if key is not None and key[0] == "file" and _state(value) != key[1]:
            raise ImageError(f"{name} image {os.fspath(value)!r} has changed since it was first opened")  # type: ignore[arg-type]
        image = open_image(value, name)
        return image if key is None or image is value else CACHE.put(key, image)

    def _pixels(self, value: ImageLike, name: str) -> str:
        """Digest of the decoded image."""
        image = self._open(value, name)
        key = self._cache_key(value, name)
        return _digest(image) if key is None else CACHE.digest(key, lambda: _digest(image))

    def _cache_key(self, value: ImageLike, name: str) -> tuple[Hashable, ...] | None:
        """Name of the decoded image in the cache: by the state of its file or by its bytes, so that edits share it;
        None for what cannot be opened. It stays what it was when the image was first opened.
        """
        if name not in self._cache_keys and (content := _content(value)) is not None:
            self._cache_keys.setdefault(name, (*content, "mask" if name == "mask" else "colours"))
        return self._cache_keys.get(name)

    @cached_property
    def _cache_keys(self) -> dict[str, tuple[Hashable, ...]]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_cache_keys"}

    def _no_list(self, *_: object) -> NoReturn:
        raise TypeError("a list of edits is wanted, and this is a single Edit: write score([edit])")

    __iter__ = __len__ = __getitem__ = _no_list

    def __bool__(self) -> bool:
        return True


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """`image` at `size` (width, height) if its aspect ratio agrees with it within 2 %, else None.

    For rewards that compare pixels: editors round sizes to multiples of 8 or 16, and that must not cost a score.
    """
    if image.size == size:
        return image
    if abs(image.width * size[1] - image.height * size[0]) * 50 > image.height * size[0]:
        return None
    return image.resize(size, Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BICUBIC)


def _content(value: ImageLike | None) -> tuple[Hashable, ...] | None:
    """What makes the decoded image: equal contents, equal images."""
    if isinstance(value, str):
        try:
            value = encoded_bytes(value) or value
        except ValueError:
            return None
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes", hashlib.blake2b(value, digest_size=16).digest()
    if isinstance(value, str | os.PathLike):
        state = _state(value)
        return None if state is None else ("file", state)
    # An object of the caller: a name that no other edit has, since ids of objects come again.
    return ("object", object()) if isinstance(value, Image.Image) or is_array(value) else None


def _state(value: Any) -> tuple[int, ...] | None:
    """What changes with the content of a file; None where there is none."""
    try:
        state = os.stat(value)
    except (OSError, ValueError):  # opening it says best what is wrong
        return None
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def _digest(*parts: str | Image.Image | None) -> str:
    """128-bit hex digest of texts and pixels; each part is framed by its kind and length, so no two lists collide."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        if part is None:
            digest.update(b"none;")
        elif isinstance(part, str):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(b"text %d;" % len(data) + data)
        else:
            digest.update(f"image {part.mode} {part.width} {part.height};".encode() + part.tobytes())
    return digest.hexdigest()
