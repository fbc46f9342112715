"""Parameters that a server refuses: read from its own words, left out or replaced, and remembered once that helped.

Models of the same protocol refuse different parts of it: a temperature (GPT-5), temperature beside top_p (Claude),
penalties and seed (Gemini), max_tokens in place of max_completion_tokens, a JSON schema (DeepSeek, LM Studio). A change
is the name of what is refused; "json_schema" stands for asking for a JSON object instead of a schema. What the caller
wants to be left out is a change that is known from the start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmreward.judge.backends.openai_errors import ServerFault

__all__ = ["CHANGES", "adjusted", "described", "refused_parameter"]

_LENGTHS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

CHANGES = (
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "repetition_penalty",
    "top_k",
    "min_p",
    "logprob_token_ids",
    *_LENGTHS,
    "json_schema",
    "response_format",
)
"""What can be left out, or replaced, without asking something else."""

_REFUSALS = (400, 422, 500, 501)
"""Status codes with which servers refuse a parameter (500 and 501: a library of theirs raised)."""

_ALSO_CALLED = {
    "frequency_penalty": r"(?<!_)\bpenalt(y|ies)\b",
    "presence_penalty": r"(?<!_)\bpenalt(y|ies)\b",
    "response_format": r"json[_ ]?schema|json[_ ]?object|json mode|structured[_ ]outputs?|guided[_ ]",
}
_NOT_BOTH = re.compile(r"\bboth\b|\beither\b|only one|one of|together|at the same time|mutually")


def adjusted(request: Mapping[str, Any], changes: Iterable[str]) -> dict[str, Any]:
    """`request` with the changes made to it."""
    changes = set(changes)
    sent = {name: value for name, value in request.items() if name in _LENGTHS or name not in changes}
    sent["extra_body"] = {name: value for name, value in request.get("extra_body", {}).items() if name not in changes}
    for name, other in _LENGTHS.items():
        if name in request and name in changes:
            length = sent.pop(name)
            if other not in changes:
                sent[other] = length
    if "json_schema" in changes and sent.get("response_format", {}).get("type") == "json_schema":
        sent["response_format"] = {"type": "json_object"}
    return sent


def refused_parameter(fault: ServerFault, sent: Mapping[str, Any], changes: Iterable[str] = ()) -> str | None:
    """The change that the server's words ask for, None where they name nothing of what was `sent` with `changes`. A
    length is sent under its other name, but never left out: an answer without end costs too much.
    """
    if fault.code not in _REFUSALS:
        return None
    parameters = {**sent.get("extra_body", {}), **sent}
    fixed = {_LENGTHS[name] for name in changes if name in _LENGTHS}
    named = _named(fault, [name for name in CHANGES if name in parameters and name not in fixed])
    if named == "response_format" and parameters[named]["type"] == "json_schema":
        return "json_schema"
    return named


def described(changes: Iterable[str]) -> dict[str, Any]:
    """The changes as provenance says them."""
    changes = set(changes)
    replaced = {name: other for name, other in _LENGTHS.items() if name in changes and other not in changes}
    if "json_schema" in changes and "response_format" not in changes:
        replaced["json_schema"] = "json_object"
    left_out = [name for name in CHANGES if name in changes - replaced.keys() - {"json_schema"}]
    return {
        **({"parameters_left_out": left_out} if left_out else {}),
        **({"parameters_replaced": replaced} if replaced else {}),
    }


def _named(fault: ServerFault, parameters: list[str]) -> str | None:
    """The parameter that the server names: in its field for it, or else first in its words."""
    if fault.parameter:
        field = fault.parameter.split(".")[0]
        if field in parameters:
            return field
    words = fault.words.lower()
    places = {name: match.start() for name in parameters if (match := re.search(_pattern(name), words))}
    if {"temperature", "top_p"} <= places.keys() and _NOT_BOTH.search(words):
        return "top_p"
    return min(places, key=lambda name: places[name], default=None)


def _pattern(name: str) -> str:
    """How servers write the name of a parameter, in lower case: with underscores, blanks or nothing between words."""
    written = rf"(?<![a-z0-9_]){name.replace('_', '[_ ]?')}(?![a-z0-9_])"
    return f"{written}|{_ALSO_CALLED[name]}" if name in _ALSO_CALLED else written
