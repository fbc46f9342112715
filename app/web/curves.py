"""Line charts as SVG text: no library, no script, readable in print; every label is escaped.

A chart shows one or more curves over a common x axis, each with an optional band (y - spread to y + spread). Colours
are Okabe and Ito's palette for colour-blind readers, as the variables --c0 to --c5 of the page's style, so that they
follow light and dark; dash patterns repeat the distinction without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Figure", "draw"]

_DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 4")
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 42


@dataclass(frozen=True)
class Curve:
    """One line: `x` and `y` of one length (NaN or None in `y` leaves a gap); `spread` is half the band's height,
    `behind` other values at the same `x`, drawn thin behind the line (what it is a running mean of).
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    spread: Sequence[float] | None = None
    behind: Sequence[float | None] | None = None


@dataclass(frozen=True)
class Figure:
    """Curves that share their axes. `y_range` fixes the y axis, else it follows the data. `marks` are places on the x
    axis with their names, drawn as upright lines.
    """

    title: str
    curves: Sequence[Curve]
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    y_range: tuple[float, float] | None = None
    marks: Sequence[tuple[float, str]] = ()


def draw(figure: Figure, width: int = 520, height: int = 280) -> str:
    """The figure as one `<svg>` element that scales with its container."""
    xs = [float(x) for curve in figure.curves for x in curve.x]
    ys = [value for curve in figure.curves for value in _extent(curve)]
    if not xs or not ys:
        return '<p class="muted">no points yet</p>'
    x_low, x_high = min(xs), max(xs)
    if x_high == x_low:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_ticks = _ticks(*(figure.y_range or _padded(min(ys), max(ys))), 5)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def at_x(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (width - _LEFT - _RIGHT)

    def at_y(y: float) -> float:
        return _TOP + (y_high - min(max(y, y_low), y_high)) / (y_high - y_low) * (height - _TOP - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(figure.title)}">']
    for tick in y_ticks:
        y = at_y(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(x_low, x_high, 6):
        if x_low <= tick <= x_high:
            parts.append(f'<text x="{at_x(tick):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + width - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{height - 6}" text-anchor="middle">{escape(figure.x_label)}</text>')
    centre = (_TOP + height - _BOTTOM) / 2
    place = f'transform="translate(13 {centre}) rotate(-90)" text-anchor="middle" class="name"'
    parts.append(f"<text {place}>{escape(figure.y_label)}</text>")
    for x, name in figure.marks:
        if x_low <= x <= x_high:
            parts.append(
                f'<line x1="{at_x(x):.1f}" x2="{at_x(x):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}" class="mark"/>'
            )
            side, anchor = (-5, "end") if x > (x_low + x_high) / 2 else (5, "start")
            place = f'x="{at_x(x) + side:.1f}" y="{_TOP + 11}" text-anchor="{anchor}"'
            parts.append(f'<text {place} class="mark">{escape(name)}</text>')
    for index, curve in enumerate(figure.curves):
        colour, dash = _look(index)
        if curve.behind is not None:
            for run in _runs(Curve("", curve.x, curve.behind)):
                points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y, _ in run)
                parts.append(f'<polyline points="{points}" fill="none" style="stroke:{colour}" opacity="0.28"/>')
        for run in _runs(curve):
            if curve.spread is not None:
                upper = [f"{at_x(x):.1f},{at_y(y + s):.1f}" for x, y, s in run]
                lower = [f"{at_x(x):.1f},{at_y(y - s):.1f}" for x, y, s in reversed(run)]
                parts.append(f'<polygon points="{" ".join(upper + lower)}" style="fill:{colour}" opacity="0.15"/>')
            points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y, _ in run)
            parts.append(
                f'<polyline points="{points}" fill="none" style="stroke:{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}" stroke-linejoin="round"/>'
            )
            x, y, _ = run[-1]
            parts.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" style="fill:{colour}"/>')
    parts.append("</svg>")
    return "".join(parts) + _legend(figure)


def _look(index: int) -> tuple[str, str]:
    """Colour and dash pattern of a curve."""
    return f"var(--c{index % len(_DASHES)})", _DASHES[index % len(_DASHES)]


def _legend(figure: Figure) -> str:
    items = []
    for index, curve in enumerate(figure.curves):
        colour, dash = _look(index)
        style = f'style="stroke:{colour}" stroke-width="2.5" stroke-dasharray="{dash}"'
        line = f'<line x1="1" x2="27" y1="5" y2="5" {style}/>'
        items.append(f'<li><svg width="28" height="10" aria-hidden="true">{line}</svg> {escape(curve.label)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _runs(curve: Curve) -> list[list[tuple[float, float, float]]]:
    """Unbroken pieces of a curve as (x, y, spread); a missing y breaks it."""
    spread = curve.spread if curve.spread is not None else [0.0] * len(curve.y)
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, y, s in zip(curve.x, curve.y, spread, strict=True):
        if y is not None and _known(y):
            runs[-1].append((float(x), float(y), float(s) if _known(s) else 0.0))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _extent(curve: Curve) -> list[float]:
    behind = [] if curve.behind is None else [y for y in curve.behind if y is not None and _known(y)]
    return behind + [value for run in _runs(curve) for _, y, s in run for value in (y - s, y + s)]


def _padded(low: float, high: float) -> tuple[float, float]:
    rounding = 1e-9 * max(abs(low), abs(high))  # 0.5 and 0.5000000000000001 are one value
    room = 0.05 * (high - low) if high - low > rounding else 0.1 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover [low, high], with steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
