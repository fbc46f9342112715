"""The comparison of an editor before and after training as one picture, for a README or a talk.

A row is an example: source, instruction, edits before, edits after, each with its score as a number and a bar. The
colours are those of the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from app.web.report import Example, Shown

__all__ = ["draw_picture"]

_INK, _SOFT, _LINE, _BAR, _RAIL = "#1d2733", "#5c6875", "#dde3ea", "#0072b2", "#e8edf2"
_SIDE, _GAP, _TEXT, _FOOT, _MARGIN, _HEAD = 128, 12, 250, 46, 32, 52
_BETWEEN = 44
"""Between the columns before and after."""


def draw_picture(examples: Sequence[Example], before: str = "before", after: str = "after") -> Image.Image:
    """The picture, RGB on white; `before` and `after` are the headings. All rows show as many edits as the first."""
    if not examples:
        raise ValueError("draw_picture needs one example or more")
    left, right = len(examples[0].before), len(examples[0].after)
    first = _MARGIN + _SIDE + _GAP + _TEXT + _GAP
    second = first + left * (_SIDE + _GAP) + _BETWEEN
    width = second + right * (_SIDE + _GAP) - _GAP + _MARGIN
    height = _MARGIN + _HEAD + len(examples) * (_SIDE + _FOOT) + _MARGIN - _GAP
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    heading = ImageFont.load_default(size=22)
    for x, text in ((_MARGIN, "source"), (_MARGIN + _SIDE + _GAP + 8, "instruction"), (first, before), (second, after)):
        pen.text((x, _MARGIN), text, fill=_SOFT, font=heading)
    y = _MARGIN + _HEAD
    for example in examples:
        canvas.paste(_fitted(example.source), (_MARGIN, y))
        _write(pen, example.instruction, _MARGIN + _SIDE + _GAP + 8, y)
        for x, shown in ((first, example.before[:left]), (second, example.after[:right])):
            for number, one in enumerate(shown):
                _put(canvas, pen, one, x + number * (_SIDE + _GAP), y)
        y += _SIDE + _FOOT
    return canvas


def _put(canvas: Image.Image, pen: ImageDraw.ImageDraw, shown: Shown, x: int, y: int) -> None:
    canvas.paste(_fitted(shown.image), (x, y))
    known = shown.score is not None and math.isfinite(shown.score)
    text = f"{shown.score:.2f}" if known else shown.status
    pen.text((x, y + _SIDE + 4), text, fill=_INK if known else _SOFT, font=ImageFont.load_default(size=16))
    if known and shown.score is not None:
        start, end, line = x + 44, x + _SIDE, y + _SIDE + 14
        pen.line((start, line, end, line), fill=_RAIL, width=6)
        if shown.score > 0:
            pen.line((start, line, start + round((end - start) * min(shown.score, 1)), line), fill=_BAR, width=6)


def _fitted(image: Image.Image) -> Image.Image:
    """The image as a square of the picture; small ones keep hard pixels."""
    image = image.convert("RGB")
    hard = max(image.size) <= _SIDE
    scale = _SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    fitted = image.resize(size, Image.Resampling.NEAREST if hard else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_SIDE, _SIDE), _LINE)
    square.paste(fitted, ((_SIDE - fitted.width) // 2, (_SIDE - fitted.height) // 2))
    return square


def _write(pen: ImageDraw.ImageDraw, text: str, x: int, y: int) -> None:
    """The text in lines as wide as the column, at most as many as fit beside an image."""
    font = ImageFont.load_default(size=20)
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and pen.textlength(longer, font=font) <= _TEXT - 24:
            lines[-1] = longer
        else:
            lines.append(word)
    most = _SIDE // 27
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    for number, line in enumerate(lines):
        pen.text((x, y + 2 + 27 * number), line, fill=_INK, font=font)
