"""Line charts as SVG text: no library, no script, readable in print; every label is escaped.

A chart shows one or more curves over a common x axis, each with an optional band (y - spread to y + spread). Colours
are from Okabe and Ito's palette for colour-blind readers; dash patterns repeat the distinction without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Figure", "draw"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a5fa8", "#b58900", "#56606b")
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "12 4", "4 4")
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 42


@dataclass(frozen=True)
class Curve:
    """One line: `x` and `y` of one length (NaN or None in `y` leaves a gap); `spread` is half the band's height."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    spread: Sequence[float] | None = None


@dataclass(frozen=True)
class Figure:
    """Curves that share their axes. `y_range` fixes the y axis, else it follows the data."""

    title: str
    curves: Sequence[Curve]
    x_label: str = ""
    y_label: str = ""
    note: str = ""
    y_range: tuple[float, float] | None = None


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
    parts.append(
        f'<text transform="translate(13 {centre}) rotate(-90)" text-anchor="middle">{escape(figure.y_label)}</text>'
    )
    for index, curve in enumerate(figure.curves):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        for run in _runs(curve):
            if curve.spread is not None:
                upper = [f"{at_x(x):.1f},{at_y(y + s):.1f}" for x, y, s in run]
                lower = [f"{at_x(x):.1f},{at_y(y - s):.1f}" for x, y, s in reversed(run)]
                parts.append(f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.13"/>')
            points = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y, _ in run)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}" stroke-linejoin="round"/>'
            )
            x, y, _ = run[-1]
            parts.append(f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="3" fill="{colour}"/>')
    parts.append("</svg>")
    return "".join(parts) + _legend(figure)


def _legend(figure: Figure) -> str:
    items = []
    for index, curve in enumerate(figure.curves):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        line = f'<line x1="1" x2="27" y1="5" y2="5" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
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
    return [value for run in _runs(curve) for _, y, s in run for value in (y - s, y + s)]


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.05 * (high - low) or 0.1 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers that cover [low, high], with steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]
