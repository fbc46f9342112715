"""Images at the size that a checkpoint was trained with.

Published judges of the Qwen family resize with Pillow before the processor sees the image (`process_vision_info` of
qwen-vl-utils): bicubic, to the multiple of `factor` nearest to the image's own size whose area lies within limits. The
processors of transformers resize tensors instead, which gives other pixels.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from mmreward.edit import Edit, ImageError, ImageName

__all__ = ["FACTOR", "FIXED_AREA", "area_size", "resize_to_area", "sized", "sizes"]

FACTOR = 28
"""Sides of images are multiples of this: patches of 14 pixels, merged two by two."""

FIXED_AREA = 256 * 28 * 28
"""Pixels of every image of EditReward and HPSv3, as far as the aspect ratio allows: 448 x 448 for a square."""


def area_size(width: int, height: int, least: int, most: int, factor: int = FACTOR) -> tuple[int, int]:
    """The width and height of `least` to `most` pixels, multiples of `factor`, to which an image of a size is brought.

    Raises ValueError where one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    found: tuple[int, int] = smart_resize(height, width, factor, least, most)
    return found[1], found[0]


def resize_to_area(image: Image.Image, least: int, most: int, factor: int = FACTOR) -> Image.Image:
    """The image at its `area_size`. Raises ValueError as that does."""
    return image.resize(area_size(*image.size, least, most, factor), Image.Resampling.BICUBIC)


def sized(edit: Edit, name: ImageName) -> Image.Image:
    """An edit's image at `FIXED_AREA` pixels. Raises `ImageError`."""
    image = edit.image(name)
    try:
        return resize_to_area(image, FIXED_AREA, FIXED_AREA)
    except ValueError as error:
        raise ImageError(f"{name} image of {image.width}x{image.height}: {error}", "not_applicable") from None


def sizes(edit: Edit, *names: ImageName) -> dict[str, Any]:
    """What provenance says of images that `sized` has resized: [width, height] as given and as seen."""
    given = {name: edit.image(name).size for name in names}
    return {
        name: {"given": list(size), "seen": list(area_size(*size, FIXED_AREA, FIXED_AREA))}
        for name, size in given.items()
    }
