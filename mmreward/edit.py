"""An edit: an instruction, the source image and the edited image, with what else is known about them.

Images are given as a path, as encoded bytes or as a PIL image, and open when they are first needed. Whatever comes in,
`Edit.image` returns 8-bit RGB (a mask: 8-bit grey), turned upright by its EXIF orientation:

- transparency is flattened on white, 16-bit values v become round(v / 257), CMYK and palettes are converted;
- an animation or a file of several pages is refused (an edit is one still image; of an MPO the first one counts);
- more than `MAX_PIXELS` pixels is refused from the header, before anything is decoded;
- only the formats in `FORMATS` are opened, because some decoders run other programs.

What cannot be opened raises `ImageError`; rewards turn it into a score with status `io_error`.
"""

__all__ = ["Edit", "ImageError", "ImageLike", "FORMATS", "MAX_PIXELS", "fit", "image_size", "open_image"]

import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmreward.score import Status

ImageLike = Image.Image | str | os.PathLike[str] | bytes
ImageName = Literal["source", "edited", "mask", "target"]

MAX_PIXELS = 89_478_485
"""Pillow's own limit for a suspicious image (a quarter of a gigabyte as RGB)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")


class ImageError(Exception):
    """An image is missing, unreadable or too large. `status` is the status of the score that follows from it."""

    def __init__(self, message: str, status: Status = "io_error") -> None:
        super().__init__(message)
        self.message = message
        self.status = status


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
        if isinstance(self.inputs, Image.Image | str | os.PathLike | bytes):
            raise TypeError("Edit.inputs must be a list of images, got a single one; write [image]")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        object.__setattr__(self, "meta", dict(self.meta or {}))

    @cached_property
    def _images(self) -> dict[str, Image.Image]:
        return {}

    def has(self, name: ImageName) -> bool:
        """Whether an image of this name was given (it may still turn out unreadable)."""
        return getattr(self, name) is not None

    def image(self, name: ImageName) -> Image.Image:
        """The image as 8-bit RGB (a mask: "L"), decoded once. Raises `ImageError`. Do not change it in place."""
        if name not in self._images:
            value = getattr(self, name)
            self._images[name] = _open_source(value) if name == "source" else open_image(value, name)
        return self._images[name]

    def input_images(self) -> list[Image.Image]:
        """`inputs` as 8-bit RGB. Raises `ImageError`."""
        return [open_image(value, f"input {number}") for number, value in enumerate(self.inputs, 1)]

    @cached_property
    def group(self) -> str:
        """Name of the group of candidates that this edit belongs to: source pixels and instruction."""
        return _digest(self.instruction, self.image("source"))

    @cached_property
    def key(self) -> str:
        """Name of everything that a reward can see: equal keys, equal scores. Never the id, meta or a path."""
        optional = [self.image(name) if self.has(name) else None for name in ("mask", "target")]
        texts = [self.source_caption, self.target_caption, self.criteria]
        return _digest(self.group, self.image("edited"), *optional, *texts, *self.input_images())


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """`image` at `size` (width, height) if its aspect ratio agrees with it within 2 %, else None.

    For rewards that compare pixels: editors round sizes to multiples of 8 or 16, and that must not cost a score.
    """
    if image.size == size:
        return image
    if abs(image.width * size[1] - image.height * size[0]) * 50 > image.height * size[0]:
        return None
    return image.resize(size, Image.Resampling.NEAREST if image.mode == "L" else Image.Resampling.BICUBIC)


def open_image(value: ImageLike | None, name: str = "image") -> Image.Image:
    """Decode one image by the rules above. `name` is what messages call it; "mask" gives 8-bit grey, others RGB."""
    place = f"{name} image" + (f" {os.fspath(value)!r}" if isinstance(value, str | os.PathLike) else "")
    if value is None or value == "":
        raise ImageError(f"{name} image missing: the row names none")
    try:
        if isinstance(value, Image.Image):
            return _still(value, name, place)
        with warnings.catch_warnings():
            # Pillow warns of large images; _still refuses them by the header instead.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(_stream(value, name, place), formats=_formats())
        with opened:
            return _still(opened, name, place)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{place} is not an image that can be read ({_names()}); save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{place} is too large: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        raise ImageError(f"{place} cannot be decoded ({_reason(error)}); is the file complete?") from error


def _open_source(value: ImageLike) -> Image.Image:
    """Candidates of one source come one after the other: its file is decoded once for all of them."""
    if not isinstance(value, str | os.PathLike):
        return open_image(value, "source")
    try:
        state = os.stat(value)
    except (OSError, ValueError):  # opening it says best what is wrong
        return open_image(value, "source")
    return _source_file(os.fspath(value), state.st_ino, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _source_file(path: str, inode: int, changed: int, size: int) -> Image.Image:
    """What lies at `path` in this state."""
    return open_image(path, "source")


def image_size(value: ImageLike, name: str = "image") -> tuple[int, int]:
    """(width, height) of what `open_image` returns, read from the header alone; raises as `open_image` does."""
    try:
        with Image.open(_stream(value, name, name), formats=_formats()) as opened:  # type: ignore[arg-type]
            known = opened.format != "PNG" or "exif" in opened.info  # a PNG that says nothing is decoded to ask again
            turned = known and opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            width, height = opened.size
    except Exception:  # opening it whole says best what is wrong
        return open_image(value, name).size
    return (height, width) if turned else (width, height)


def _stream(value: str | os.PathLike[str] | bytes, name: str, place: str) -> io.BytesIO | Path:
    if isinstance(value, bytes | bytearray | memoryview):
        if not value:
            raise ImageError(f"{place} is empty (0 bytes)")
        return io.BytesIO(value)
    if not isinstance(value, str | os.PathLike):
        raise ImageError(f"{name} image must be a PIL image, a path or bytes, got {type(value).__name__}")
    path = Path(value)
    if not path.exists():
        raise ImageError(f"{place} not found")
    if not path.is_file():
        raise ImageError(f"{place} is not a file")
    if path.stat().st_size == 0:
        raise ImageError(f"{place} is empty (0 bytes)")
    return path


def _still(image: Image.Image, name: str, place: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{place} is too large: {width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{place} is empty: {width} x {height} pixels")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"{place} is an animation or has several pages ({frames}); save the one that is meant")
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _eight_bit(image, place)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if name == "mask" and min(image.getchannel("A").tobytes()) < 255:
            raise ImageError(f"{place} has transparent parts; save it as a grey image, white where changes are allowed")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if name == "mask" else "RGB")


def _eight_bit(image: Image.Image, place: str) -> Image.Image:
    import numpy as np

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{place} has {image.mode!r} pixels beyond 16 bits; save it with 8 or 16 bits a channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _names() -> str:
    return ", ".join(_formats())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


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
