"""Reading a judge's written answer: the scores, the choice or the list that stands there, or why there is none.

A reading never guesses: an answer is read in the forms below or not at all, no number is clipped to the scale, two
different answers in one text are none, and prose is not searched for numbers ("an artifacts score of 2" may mean few
artifacts or a bad mark). Forms of scores, tried in this order:

    object    {"reasoning": "...", "score": [8, 7]} or {"success": 8, "over_edit": 7}, fenced or not, anywhere
    keyed     the same where JSON is broken, for example by quotes within the reasoning: "score": [8, 7]
    list      [8, 7] on a line of its own
    numbers   nothing but the numbers, with or without names: "8, 7", "success: 8, over_edit: 7"
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmreward.judge.parse_json import canonical, entries, objects, straight
from mmreward.score import Status

__all__ = ["Reading", "read_choice", "read_list", "read_scores"]

_LONGEST = 100_000
"""No answer of a judge has more characters; longer ones are not searched."""
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_LIST = rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\]"
_BEFORE = r"""(?:^|[{,\n])[ \t]*["']?"""
"""What a key stands behind, so that "total score" is not taken for "score"."""
_SCORE_KEYS = ("score", "scores")
_REASON_KEYS = ("reasoning", "reason", "rationale", "explanation")
_REFUSAL = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able)|\bsorry, (?:but )?i\b|\bi must decline"
    r"|\bi (?:can(?:'t|not| not)|won't|will not)"
    r" (?:assist|help|comply|provide|give|rate|score|evaluate|judge|accomplish|do|fulfil|see (?:any |the )?images?)"
    r"|\bas an ai (?:language )?model\b|\b(?:please|could you) (?:provide|share|upload|send)\b.*\bimages?\b"
    r"|\bi need (?:\w+ ){0,5}images?\b|抱歉|对不起|无法(?:提供|评|查看)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reading:
    """What was read, or a status other than "ok" with the reason. `form` says how it was written."""

    scores: tuple[float, ...] = ()
    choice: str = ""
    items: tuple[str, ...] = ()
    form: str = ""
    rationale: str | None = None
    status: Status = "ok"
    error: str | None = None


def read_scores(text: str, names: Sequence[str], least: float, most: float, *, finished: bool = True) -> Reading:
    """One number a name, each from `least` to `most`. `finished` False: the text was cut off, which is a failure.

    >>> read_scores('```json\\n{"reasoning": "fine", "score": [8, 7]}\\n```', ["success", "over_edit"], 0, 10).scores
    (8.0, 7.0)
    """
    answer, failure = _answer(text, finished)
    if failure:
        return failure
    values, rest = objects(answer)
    found, form = _find_scores(values, straight(rest), tuple(map(canonical, names)))
    rationale = _rationale(values, answer)
    if not found:
        return _nothing(answer, f"no {len(names)} scores")
    if len(found) > 1 or isinstance(found[0], str):
        wrong = next((one for one in found if isinstance(one, str)), f"{len(found)} different answers in one text")
        return Reading(form=form, rationale=rationale, status="parse_error", error=wrong)
    scores = found[0]
    off = [f"{name} {value:g}" for name, value in zip(names, scores, strict=True) if not least <= value <= most]
    if off:
        error = f"{', '.join(off)}: off the scale, which goes from {least:g} to {most:g}"
        return Reading(form=form, rationale=rationale, status="parse_error", error=error)
    return Reading(scores, form=form, rationale=rationale)


def read_choice(text: str, choices: Sequence[str], key: str, *, finished: bool = True) -> Reading:
    """One of the choices, as the value of `key` or as the whole answer; capitals do not matter."""
    answer, failure = _answer(text, finished)
    if failure:
        return failure
    known = {choice.casefold(): choice for choice in choices}
    values, rest = objects(answer)
    told = [one[key] for value in values for one in entries(value) if key in one]
    quoted = "|".join(map(re.escape, choices))
    pattern = rf"""{_BEFORE}{key}["']?\s*[:=]\s*["']?({quoted})["']?[ \t]*(?:[,}}\n]|$)"""
    told += re.findall(pattern, straight(rest), re.IGNORECASE)
    if not told and (bare := answer.strip(" \t\n.\"'*`()[]")).casefold() in known:
        told = [bare]
    found = {str(one).strip().casefold() for one in told}
    if len(found) == 1 and (choice := known.get(found.pop())):
        return Reading(choice=choice, rationale=_rationale(values, answer))
    if told:
        error = f"{key} is {', '.join(map(repr, told[:3]))}, not one of {', '.join(choices)}"
        return Reading(rationale=_rationale(values, answer), status="parse_error", error=error)
    return _nothing(answer, f"none of {', '.join(choices)}")


def read_list(text: str, key: str, *, most: int, finished: bool = True) -> Reading:
    """Up to `most` short texts: the list under `key`, a list alone, or lines that begin with a dash or a number."""
    answer, failure = _answer(text, finished)
    if failure:
        return failure
    lists = [one[key] for value in objects(answer)[0] for one in entries(value) if isinstance(one.get(key), list)]
    if not lists:
        lists = [re.findall(r'"((?:[^"\\]|\\.)+)"', one) for one in re.findall(r"\[[^\[\]]*\]", straight(answer))]
        lists = [one for one in lists if one] or [re.findall(r"^\s*(?:[-*•]|\d+[.)])\s+(\S.*)$", answer, re.MULTILINE)]
    if len(lists) > 1:
        return Reading(rationale=answer, status="parse_error", error=f"{len(lists)} lists in one text")
    items = tuple(dict.fromkeys(one.strip() for one in lists[0] if isinstance(one, str) and one.strip()))
    if not items:
        return _nothing(answer, f"no list of {key}")
    if len(items) > most:
        error = f"{len(items)} {key} where at most {most} were asked for"
        return Reading(rationale=answer, status="parse_error", error=error)
    return Reading(items=items, rationale=answer)


def _answer(text: str, finished: bool) -> tuple[str, Reading | None]:
    """The answer behind what a model thought first, and the failure that is seen without reading it."""
    answer = text.rpartition("</think>")[2].strip()
    if not finished or "<think>" in answer:
        error = "the answer was cut off; allow more new tokens"
        return answer, Reading(rationale=text.strip() or None, status="parse_error", error=error)
    if len(answer) > _LONGEST:
        return "", Reading(status="parse_error", error=f"{len(answer):,} characters are no answer of a judge")
    if not answer:
        return answer, Reading(status="parse_error", error="the answer is empty")
    return answer, None


def _nothing(answer: str, what: str) -> Reading:
    if _REFUSAL.search(straight(answer)[:400]):
        return Reading(rationale=answer, status="refused", error=f"the judge declined: {_short(answer)}")
    if answer.count("{") > answer.count("}") or answer.count("[") > answer.count("]"):
        return Reading(rationale=answer, status="parse_error", error=f"a bracket is not closed: {_short(answer)}")
    return Reading(rationale=answer, status="parse_error", error=f"{what} in {_short(answer)}")


def _find_scores(values: list[Any], plain: str, names: tuple[str, ...]) -> tuple[list[tuple[float, ...] | str], str]:
    """The different scores in the first form that gives any (for what cannot be read: why), and the form. `values` are
    the objects of an answer, `plain` is the text without them.
    """
    told = [one for value in values for found in entries(value) for one in _of_object(found, names)]
    closed = plain.count("{") <= plain.count("}")
    forms = (
        ("object" if told else "keyed", told + (list(_keyed(plain, names)) if closed else [])),
        ("list", [_sized(_numbers(one), names) for one in _lists_alone(plain)]),
        ("numbers", list(_whole(plain, names))),
    )
    for form, found in forms:
        if found:
            return list(dict.fromkeys(found)), form
    return [], ""


def _of_object(found: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[float, ...] | str]:
    for key in _SCORE_KEYS:
        value = found.get(key)
        if isinstance(value, list):
            numbers = [number for one in value if (number := _number(one)) is not None]
            if len(numbers) < len(value):
                yield f"{key} is not a list of numbers: {_short(str(value))}"
            else:
                yield _sized(tuple(numbers), names)
        elif len(names) == 1 and (number := _number(value)) is not None:
            yield (number,)
    for keys in _keys(names):
        numbers = [number for key in keys if (number := _number(found.get(key))) is not None]
        if len(numbers) == len(keys):
            yield tuple(numbers)


def _keys(names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What scores are called: by name, or numbered."""
    return names, tuple(f"score{i + 1}" for i in range(len(names)))


def _sized(numbers: tuple[float, ...], names: tuple[str, ...]) -> tuple[float, ...] | str:
    same = len(numbers) == len(names)
    return numbers if same else f"{len(numbers)} numbers where {len(names)} were asked for"


def _number(value: Any) -> float | None:
    if isinstance(value, str) and re.fullmatch(_NUMBER, value.strip()):
        value = float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _keyed(text: str, names: tuple[str, ...]) -> Iterator[tuple[float, ...] | str]:
    for one in re.findall(rf"""{_BEFORE}scores?["']?\s*[:=]\s*({_LIST})""", text, re.IGNORECASE):
        yield _sized(_numbers(one), names)
    after = rf"""["']?\s*[:=]\s*["']?({_NUMBER})["']?\s*[,}}\n]"""
    values = [set(map(float, re.findall(_BEFORE + _words(name) + after, text, re.IGNORECASE))) for name in names]
    if all(values):
        several = [name for name, found in zip(names, values, strict=True) if len(found) > 1]
        yield f"several numbers for {several[0]}" if several else tuple(found.pop() for found in values)


def _lists_alone(text: str) -> list[str]:
    lines = re.findall(rf"^[`\t ]*{_LIST}(?:\s*,\s*{_LIST})*[`\t ,.]*$", text, re.MULTILINE)
    return [one for line in lines for one in re.findall(_LIST, line)]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, re.findall(_NUMBER, text)))


def _whole(text: str, names: tuple[str, ...]) -> Iterator[tuple[float, ...]]:
    for keys in (*_keys(names), None):
        named = [rf"""["']?{_words(key)}["']?\s*[:=]?\s*({_NUMBER})""" for key in keys or ()]
        parts = named or [rf"({_NUMBER})"] * len(names)
        match = re.fullmatch(r"[(\s]*" + r"(?:\s*[,;]\s*|\s+)".join(parts) + r"[)\s.]*", text, re.IGNORECASE)
        if match:
            yield tuple(map(float, match.groups()))


def _words(name: str) -> str:
    """A pattern for a canonical name, however its words are joined."""
    return re.escape(name).replace("_", r"[\W_]+")


def _rationale(values: list[Any], answer: str) -> str:
    for value in values:
        for found in entries(value):
            for key in _REASON_KEYS:
                if isinstance(found.get(key), str) and found[key].strip():
                    return str(found[key]).strip()
    return answer


def _short(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 80 else text[:77] + "...")
