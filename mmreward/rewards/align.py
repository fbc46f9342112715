"""Images of one edit at one size, for rewards that compare pixels.

An image whose aspect ratio agrees with the source's within 2 % is resized to it (bicubic; a mask: nearest), because
editors round sizes; with another one its pixels cannot be compared.

Where the source has more than `MOST_PIXELS` pixels, all are compared at a smaller size: the source's width and height
times sqrt(MOST_PIXELS / pixels), rounded. An image of the source's size is brought to it by the mean over the area that
becomes one pixel (box filter), another one directly, as above. That bounds the memory of a comparison; what shows at
that size is what counts.
"""

__all__ = ["MOST_PIXELS", "Aligned", "align"]

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from mmreward.edit import Edit, ImageError, ImageName, fit

MOST_PIXELS = 2**21
"""Full HD and 1448 x 1448 are just below."""


@dataclass(frozen=True)
class Aligned:
    """The images that the edit has, at one size. `resized`: for provenance, "from to" of those that had another."""

    images: dict[ImageName, Image.Image]
    resized: dict[ImageName, str] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        return {"resized": self.resized} if self.resized else {}


def align(edit: Edit, names: Iterable[ImageName]) -> Aligned:
    """Those images among `names` that the edit has, at the size of its source or at the smaller one above.

    Raises ImageError, with the status `not_applicable` for an aspect ratio that differs from the source's.
    """
    whole = edit.image("source").size
    size = bounded(whole)
    images: dict[ImageName, Image.Image] = {}
    resized: dict[ImageName, str] = {}
    for name in names:
        if not edit.has(name):
            continue
        image = edit.image(name)
        fitted = image.resize(size, Image.Resampling.BOX) if image.size == whole != size else fit(image, size)
        if fitted is None:
            raise ImageError(
                f"{name} image is {_by(image.size)} and the source {_by(whole)}: their aspect ratios differ by more "
                "than 2 %, so their pixels cannot be compared; crop or pad one of them",
                "not_applicable",
            )
        images[name] = fitted
        if image.size != size:
            resized[name] = f"{_by(image.size)} to {_by(size)}"
    return Aligned(images, resized)


def bounded(size: tuple[int, int]) -> tuple[int, int]:
    """`size` (width, height), or the one of `MOST_PIXELS` pixels at most with the same aspect ratio.

    >>> bounded((1920, 1080)), bounded((4000, 3000))
    ((1920, 1080), (1672, 1254))
    """
    scale = math.sqrt(MOST_PIXELS / (size[0] * size[1]))
    if scale >= 1:
        return size
    width, height = (max(1, round(side * scale)) for side in size)
    width = max(1, min(width, MOST_PIXELS // height))
    return width, min(height, MOST_PIXELS // width)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
