"""Is it the same run? What differs between the settings that a run began with and those that it should go on with."""

from __future__ import annotations

__all__ = ["LENGTH_AND_SAVING", "differences"]

from collections.abc import Collection, Iterator, Mapping
from typing import Any

LENGTH_AND_SAVING = ("loop.steps", "loop.minutes", "loop.save_minutes")
"""Settings that may change from one part of a run to the next."""


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], may_change: Collection[str] = LENGTH_AND_SAVING
) -> list[str]:
    """One text for each setting that differs, by its dotted key, but for those that may.

    >>> differences({"loop": {"lr": 0.1, "steps": 5}}, {"loop": {"lr": 0.2, "steps": 9}})
    ['loop.lr was 0.1 and is 0.2']
    """
    first, second = dict(_flat(before)), dict(_flat(now))
    return [
        f"{key} was {first.get(key)!r} and is {second.get(key)!r}"
        for key in {**first, **second}
        if key not in may_change and first.get(key) != second.get(key)
    ]


def _flat(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value
