"""Options of a judge, as a spec gives them: text, taken out of the mapping and checked.

What a reader of options does not know stays in the mapping, so that the last one can refuse it by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["DTYPE_NAMES", "take_choice", "take_number", "take_whole"]

DTYPE_NAMES = ("float32", "bfloat16", "float16")
"""Values of the option `dtype` of every model; names of torch's, which need not be imported to check them."""


def take_whole(options: dict[str, str], name: str, default: int, least: int = 1) -> int:
    """A whole number from `least` upwards."""
    text = options.pop(name, None)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ValueError(f"option {name} must be a whole number from {least} upwards, got {text!r}")
    return int(text)


def take_number(options: dict[str, str], name: str, default: float, least: float, most: float) -> float:
    """A number from `least` to `most`."""
    text = options.pop(name, None)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:  # also for NaN
        raise ValueError(f"option {name} must be a number from {least:g} to {most:g}, got {text!r}")
    return value


def take_choice(options: dict[str, str], name: str, default: str, known: Iterable[str]) -> str:
    """One of the names that are known."""
    value = options.pop(name, default)
    if value not in (known := tuple(known)):
        from mmreward.reward import unknown

        raise unknown(name, value, known)
    return value
