"""Image grids for people: one row a group, the source first, then its candidates from best to worst
with their scores.
"""

__all__ = ["Row", "grid"]

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from mmreward.score import Failure, Score

_CAPTION = 16
_GAP = 4


@dataclass(frozen=True)
class Row:
    """One group."""

    source: Image.Image
    instruction: str
    images: Sequence[Image.Image | Failure]
    scores: Sequence[Score]


def grid(rows: Sequence[Row], side: int = 96) -> Image.Image:
    """The rows as one image; `side` is the longest side of a picture in it."""
    columns = 1 + max(len(row.images) for row in rows)
    cell, line = side + _GAP, side + 2 * _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * cell + _GAP, len(rows) * line + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, row in enumerate(rows):
        top = _GAP + place * line
        draw.text((_GAP, top), row.instruction, fill="black", font=font)
        order = sorted(range(len(row.images)), key=lambda i: -_value(row.scores[i]))
        captions = ["source", *(_caption(row.scores[i]) for i in order)]
        for column, (image, caption) in enumerate(zip([row.source, *(row.images[i] for i in order)], captions)):
            left = _GAP + column * cell
            if isinstance(image, Image.Image):
                sheet.paste(_fitted(image, side), (left, top + _CAPTION))
            draw.text((left, top + _CAPTION + side), caption, fill="black", font=font)
    return sheet


def _value(score: Score) -> float:
    return score.overall if score.ok else -math.inf


def _caption(score: Score) -> str:
    return f"{score.overall:.2f}" if score.ok else score.status


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
