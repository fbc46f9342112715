"""Colours in sRGB: an image that brings another colour profile (Display P3, Adobe RGB, a grey one, CMYK) is converted.

Relative colorimetric, with black point compensation, by LittleCMS. A profile that is broken, or belongs to another kind
of pixels, is ignored. One that shows every colour as sRGB does changes no byte: what it is called says little (there
are a dozen names for sRGB, and profiles with "sRGB" in their name that are not), so a grid of colours is converted.
"""

__all__ = ["to_srgb"]

import io
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""Colour space of a profile -> mode of the pixels that it describes."""
_SAME = 2
"""Levels by which profiles of sRGB differ from one another by rounding of their curves."""


def to_srgb(image: Image.Image, profile: object) -> Image.Image:
    """`image` (without transparency) as RGB in sRGB. `profile` is its ICC profile, if it has one."""
    conversion = _conversion(profile, image.mode == "L", image.mode == "CMYK") if isinstance(profile, bytes) else None
    if conversion:
        mode, transform = conversion
        try:
            converted = transform.apply(image if image.mode == mode else image.convert(mode))
        except Exception:  # as of a broken profile
            return image.convert("RGB")
        converted.info.clear()
        return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=8)
def _conversion(profile: bytes, is_grey: bool, is_cmyk: bool) -> tuple[str, Any] | None:
    """The mode that the profile describes and its transform to sRGB; None where the pixels are to be left."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(opened.profile.xcolor_space.strip())
        if mode is None or (mode == "CMYK") != is_cmyk or (mode == "L" and not is_grey):
            return None
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        return None if mode != "CMYK" and _changes_nothing(transform, mode) else (mode, transform)
    except Exception:  # whatever a broken profile makes the library raise
        return None


def _changes_nothing(transform: Any, mode: str) -> bool:
    levels = bytes(range(0, 256, 15))
    grid = bytes(v for r in levels for g in levels for b in levels for v in (r, g, b)) if mode == "RGB" else levels
    colours = Image.frombytes(mode, (len(grid) // len(mode), 1), grid)
    pairs = zip(transform.apply(colours).tobytes(), colours.convert("RGB").tobytes())
    return max(abs(after - before) for after, before in pairs) <= _SAME
