"""Ways of judging: how an edit becomes questions, and answers become a score. One file each.

A new way is one file here and one line in `WAYS`. Its function is `load(options, card) -> Way`; it takes the options
that it knows, named in its module's `OPTIONS`, out of `options` (see `mmreward.judge.options`) and leaves the others.
`card` is what the model's card says: under `questions` the question set for each way that it was made for. A model made
for one domain, as the bundled one is, was taught these ways and no other, and is asked in no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mmreward.domain import ANY
from mmreward.judge.way import Way

__all__ = ["WAYS", "load_way", "way_options"]

WAYS: dict[str, str] = {
    "expected": "mmreward.judge.ways.expected:load",
    "rubric": "mmreward.judge.ways.rubric:load",
    "pairwise": "mmreward.judge.ways.pairwise:load",
    "checklist": "mmreward.judge.ways.checklist:load",
    "entities": "mmreward.judge.ways.entities:load",
}
"""Name -> `module:function`, imported when it is asked for."""


def load_way(name: str, options: dict[str, str], card: Mapping[str, Any] | None = None) -> Way:
    """The way of this name. Takes its options out of `options`. Raises ValueError for a wrong name or option, and for a
    way that the model of this card was not taught.
    """
    module, function = _find(name)
    card = card or {}
    taught = card.get("questions", {})
    if taught and name not in taught and card.get("domain", ANY) != ANY:
        raise ValueError(
            f"the model {card.get('name', '')!r} was not taught way={name}; its card lists {', '.join(taught)}. Other "
            "ways need a general model, such as vlm:Qwen/Qwen2.5-VL-7B-Instruct"
        )
    way: Way = getattr(import_module(module), function)(options, card)
    return way


def way_options(name: str) -> tuple[str, ...]:
    """Names of the options that a way knows."""
    names: tuple[str, ...] = import_module(_find(name)[0]).OPTIONS
    return names


def _find(name: str) -> tuple[str, str]:
    if name not in WAYS:
        from mmreward.reward import unknown

        raise unknown("way of judging", name, WAYS)
    module, _, function = WAYS[name].partition(":")
    return module, function
