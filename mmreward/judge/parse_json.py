"""JSON in a text that a model wrote: what stands there, read leniently, and nothing that does not.

Models put JSON into fences, behind reasoning, with typographic quotes or with a comma too many. All of these are read.
An object that is not closed is not: closing it would be a guess.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

__all__ = ["canonical", "entries", "objects", "straight"]

_QUOTES = str.maketrans({
    "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u00ab": '"', "\u00bb": '"', "\uff02": '"',
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'",
})  # fmt: skip
_TRIES = 100
"""After so many brackets that begin no JSON, no more are tried: each may cost the length of the text."""
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


def straight(text: str) -> str:
    """The text with straight quotes and without commas before a closing bracket."""
    return _without_commas(text.translate(_QUOTES))


def _without_commas(text: str) -> str:
    return _TRAILING_COMMA.sub(r"\1", text)


def canonical(key: str) -> str:
    """A key as it is compared: "Over-Edit " is over_edit."""
    return re.sub(r"\W+", "_", key.casefold()).strip("_")


def objects(text: str) -> tuple[list[Any], str]:
    """JSON objects in the text (and lists that hold some), outermost only, and the text without them. What is no JSON
    as it stands is tried again after `straight`.
    """
    found, rest = [], text
    for repair in (str, _without_commas, straight):
        values, rest = _outermost(repair(rest))
        found += values
    return found, rest


def entries(value: Any) -> Iterator[dict[str, Any]]:
    """All objects within a JSON value, with canonical keys, the outer before the inner."""
    if isinstance(value, dict):
        yield {canonical(key): item for key, item in value.items()}
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from entries(item)


def _outermost(text: str) -> tuple[list[Any], str]:
    found: list[Any] = []
    rest, end, failures = "", 0, 0
    for match in re.finditer(r"[{\[]", text):
        if match.start() < end or failures == _TRIES:
            continue
        try:
            value, after = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, brackets without end
            failures += 1
            continue
        # Followed by more of an object, it is part of one that could not be read.
        if any(True for _ in entries(value)) and not re.match(r"\s*[,\]}]", text[after : after + 80]):
            rest += text[end : match.start()] + "\n"
            end = after
            found.append(value)
    return found, rest + text[end:]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if canonical(key) in found and found[canonical(key)] != value:
            raise ValueError(f"the key {key!r} stands there twice")
        found[canonical(key)] = value
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object, parse_constant=_constant)
