"""Images at the size that a checkpoint was trained with.

Published judges of the Qwen family resize with Pillow before the processor sees the image (`process_vision_info` of
qwen-vl-utils): bicubic, to the multiple of `factor` nearest to the image's own size whose area lies within limits. The
processors of transformers resize tensors instead, which gives other pixels.
"""

from __future__ import annotations

from PIL import Image

from mmreward.edit import Edit, ImageError, ImageName

__all__ = ["FACTOR", "FIXED_AREA", "resize_to_area", "sized"]

FACTOR = 28
"""Sides of images are multiples of this: patches of 14 pixels, merged two by two."""

FIXED_AREA = 256 * 28 * 28
"""Pixels of every image of EditReward and HPSv3, as far as the aspect ratio allows: 448 x 448 for a square."""


def resize_to_area(image: Image.Image, least: int, most: int, factor: int = FACTOR) -> Image.Image:
    """The image at a size of `least` to `most` pixels, sides multiples of `factor`.

    Raises ValueError where one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    height, width = smart_resize(image.height, image.width, factor, least, most)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def sized(edit: Edit, name: ImageName) -> Image.Image:
    """An edit's image at `FIXED_AREA` pixels. Raises `ImageError`."""
    image = edit.image(name)
    try:
        return resize_to_area(image, FIXED_AREA, FIXED_AREA)
    except ValueError as error:
        raise ImageError(f"{name} image of {image.width}x{image.height}: {error}", "not_applicable") from None
