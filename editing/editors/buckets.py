"""Sizes of edited images: a fixed area and one of a few shapes, so that photos can share a batch.

A batch has one resolution, and photos have any shape. Each source goes to the nearest of a family's shapes (resized
whole; no corner is cut off), which stretches it by about 8 % at most between the widest and the tallest of them. The
edit is stretched back to the size of its source (`editing.data.Task.edit`).
"""

__all__ = ["ASPECTS", "SHAPES", "Shapes", "bucket"]

import math

Shapes = tuple[tuple[float, float], ...]
"""(width, height), in sides of the square of the wanted area."""

_WIDE = (9 / 8, 5 / 4, 4 / 3, 3 / 2, 5 / 3, 16 / 9, 2.0, 21 / 9)
ASPECTS: tuple[float, ...] = (*(1 / aspect for aspect in reversed(_WIDE)), 1.0, *_WIDE)
"""Width / height, rising."""
SHAPES: Shapes = tuple((aspect**0.5, aspect**-0.5) for aspect in ASPECTS)
"""Those of a family that was trained on no table of its own."""


def bucket(width: int, height: int, area: int, multiple: int, shapes: Shapes = SHAPES) -> tuple[int, int]:
    """(height, width) in pixels of the bucket for an image: about `area` pixels, sides that `multiple` divides."""
    wanted = math.log(width / height)
    across, down = min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))
    rows, columns = (max(round(side * math.sqrt(area) / multiple), 1) * multiple for side in (down, across))
    return rows, columns
