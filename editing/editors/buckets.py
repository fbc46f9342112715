"""Sizes of edited images: a fixed area and one of a few aspect ratios, so that photos can share a batch.

A batch has one resolution, and photos have any shape. Each source goes to the nearest of `ASPECTS` (resized whole; no
corner is cut off), which stretches it by about 8 % at most between the widest and the tallest of them.
"""

__all__ = ["ASPECTS", "bucket"]

import math

_WIDE = (9 / 8, 5 / 4, 4 / 3, 3 / 2, 5 / 3, 16 / 9, 2.0, 21 / 9)
ASPECTS: tuple[float, ...] = (*(1 / aspect for aspect in reversed(_WIDE)), 1.0, *_WIDE)
"""Width / height, rising."""


def bucket(width: int, height: int, area: int, multiple: int) -> tuple[int, int]:
    """(height, width) in pixels of the bucket for an image: about `area` pixels, sides that `multiple` divides."""
    wanted = math.log(width / height)
    aspect = min(ASPECTS, key=lambda aspect: abs(math.log(aspect) - wanted))
    sides = (math.sqrt(area / aspect), math.sqrt(area * aspect))
    rows, columns = (max(round(side / multiple), 1) * multiple for side in sides)
    return rows, columns
