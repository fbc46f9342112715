"""One image, from whatever it is given as, to 8-bit RGB in sRGB (a mask: 8-bit grey), turned upright:

- colour profiles are converted to sRGB (`mmreward.images.colour`), of masks they are ignored;
- transparency is flattened on white, 16-bit values v become round(v / 257), CMYK and palettes are converted;
- an animation or a file of several pages is refused (an edit is one still image; of an MPO the first one counts);
- more than `MAX_PIXELS` pixels is refused from the header, before anything is decoded;
- only the formats in `FORMATS` are opened, because some decoders run other programs;
- metadata never costs the picture: what cannot be read of it is left out.
"""

__all__ = ["FORMATS", "MAX_PIXELS", "image_size", "open_image"]

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mmreward.images import png
from mmreward.images.arrays import from_array, is_array
from mmreward.images.colour import to_srgb
from mmreward.images.error import ImageError
from mmreward.images.given import ImageLike, encoded_bytes, is_address, place, shortened

MAX_PIXELS = 89_478_485
"""Pillow's own limit for a suspicious image (a quarter of a gigabyte as RGB)."""

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_LOADING = threading.Lock()
"""Held while a PIL image of the caller is read from its file: Pillow's readers are not for several threads."""


def open_image(value: ImageLike | None, name: str = "image") -> Image.Image:
    """Decode one image by the rules above. `name` is what messages call it; "mask" gives 8-bit grey, others RGB. Raises
    `ImageError`. A PIL image that needs no change is returned as it is, not copied.
    """
    if value is None or (isinstance(value, str) and not value):
        raise ImageError(f"{name} image missing: the row names none")
    where = place(value, name)
    try:
        if isinstance(value, ImageFile.ImageFile):
            with _LOADING, _quiet():
                return _plain(value, name, where)
        if isinstance(value, Image.Image):
            return _plain(value, name, where)
        if is_array(value):
            return _plain(from_array(value, where), name, where)
        with _quiet():
            return _decoded(_stream(value, name, where), name, where)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{where} is not an image that can be read ({_names()}); save it as PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{where} is too large: more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # decoders raise whatever a broken file makes them raise
        raise ImageError(f"{where} cannot be decoded ({_reason(error)}); is the file complete?") from error


def image_size(value: ImageLike, name: str = "image") -> tuple[int, int]:
    """(width, height) of what `open_image` returns, from the header alone where it says so. Raises `ImageError` for
    what `open_image` refuses without decoding: missing, too large, animated, no image.
    """
    size = None
    if isinstance(value, Image.Image | str | os.PathLike | bytes):
        where = place(value, name)
        try:
            with _quiet():
                size = _size_in_header(value, name, where)
        except ImageError:
            raise
        except Exception:  # opening it whole says best what is wrong, or does without its metadata
            size = None
    return size or open_image(value, name).size


def _size_in_header(value: ImageLike, name: str, where: str) -> tuple[int, int] | None:
    if isinstance(value, Image.Image):
        _check(value, where)
        return _upright_size(value)
    stream = _stream(value, name, where)
    with Image.open(stream, formats=_formats()) as opened:
        _check(opened, where)
        if opened.format != "PNG" or "exif" in opened.info:
            return _upright_size(opened)
        size = opened.size
    with stream.open("rb") if isinstance(stream, Path) else io.BytesIO(stream.getvalue()) as file:
        may_be_turned = png.chunk_types_after_pixels(file) & {b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
    return None if may_be_turned or _has_xmp(opened) else size


def _has_xmp(image: Image.Image) -> bool:
    return bool({"XML:com.adobe.xmp", "xmp", "Raw profile type exif"} & set(image.info))


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    if image.format == "TIFF":  # which reports the size that it has once it is turned
        return width, height
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _stream(value: object, name: str, where: str) -> io.BytesIO | Path:
    """The encoded image, or the file that holds it."""
    if isinstance(value, str):
        try:
            data = encoded_bytes(value)
        except ValueError as error:
            raise ImageError(f"{where} is {error}") from None
        value = value if data is None else data
    if isinstance(value, bytes | bytearray | memoryview):
        if not value:
            raise ImageError(f"{where} is empty (0 bytes)")
        return io.BytesIO(value)
    if not isinstance(value, str | os.PathLike):
        raise ImageError(
            f"{name} image must be a PIL image, a path, bytes, base64 or an array, got {type(value).__name__}"
        )
    if isinstance(value, str) and is_address(value):
        raise ImageError(f"{where} is an address; addresses are not fetched: download it and give the file")
    path = Path(value)
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{where} not found") from None
    except (OSError, ValueError) as error:  # no right to look, too long for a name, a zero byte in it
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{where} cannot be opened: {reason}") from None
    if not path.is_file():
        raise ImageError(f"{where} is not a file")
    if state.st_size == 0:
        raise ImageError(f"{where} is empty (0 bytes)")
    return path


def _decoded(stream: io.BytesIO | Path, name: str, where: str) -> Image.Image:
    try:
        with Image.open(stream, formats=_formats()) as opened:
            return _own(_plain(opened, name, where), opened)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception as error:
        data = stream.read_bytes() if isinstance(stream, Path) else stream.getvalue()
        if not data.startswith(png.SIGNATURE):
            raise
        pixels, profile = png.without_metadata(data)
        try:
            with Image.open(io.BytesIO(pixels), formats=_formats()) as opened:
                return _own(_plain(opened, name, where, profile), opened)
        except (ImageError, Image.DecompressionBombError):
            raise
        except Exception:
            raise error from None


def _own(image: Image.Image, opened: Image.Image) -> Image.Image:
    """`image` without the reader of its file, which holds all metadata."""
    image = image.copy() if image is opened else image
    image.info.clear()
    return image


def _plain(image: Image.Image, name: str, where: str, profile: object = None) -> Image.Image:
    _check(image, where)
    image.load()
    profile = profile or image.info.get("icc_profile")
    upright = image
    if turn := _TURNS.get(_orientation(image)):
        upright = image.transpose(turn)
        upright.info = {key: value for key, value in image.info.items() if key == "transparency"}
    if upright.mode in ("I", "F") or upright.mode.startswith("I;"):
        upright = _eight_bit(upright, where)
    alpha = None
    if upright.has_transparency_data:
        is_grey = upright.mode in ("L", "LA", "La")
        layered = upright.convert("RGBA")
        alpha = layered.getchannel("A")
        upright = layered.getchannel("R") if is_grey else layered.convert("RGB")
        if name == "mask" and min(alpha.tobytes()) < 255:
            raise ImageError(f"{where} has transparent parts; save it as a grey image, white where changes are allowed")
    if name == "mask":
        return upright if upright.mode == "L" else upright.convert("L")
    coloured = to_srgb(upright, profile)
    if alpha is None:
        return coloured
    coloured.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")


def _check(image: Image.Image, where: str) -> None:
    """Refuse what the header shows to be no single image of a reasonable size."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{where} is too large: {width} x {height} is more than {MAX_PIXELS:,} pixels; make it smaller"
        )
    if width * height == 0:
        raise ImageError(f"{where} is empty: {width} x {height} pixels")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise ImageError(f"{where} is an animation or has several pages ({frames}); save the one that is meant")


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 where none can be read. Only this tag is looked at: an ill-typed one beside it does no harm."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever garbage makes the parser raise
        return 1
    return value if value in _TURNS else 1


def _eight_bit(image: Image.Image, where: str) -> Image.Image:
    import numpy as np

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{where} has {image.mode!r} pixels beyond 16 bits; save it with 8 or 16 bits a channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings: of large images, which are refused by their header here, and of odd metadata."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _names() -> str:
    return ", ".join(_formats())


def _reason(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text if len(text) <= 200 else shortened(text)}" if text else type(error).__name__
