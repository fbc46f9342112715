"""Reading a judge's written answer: the scores, the choice or the list that stands there, or why there is none.

A reading never guesses: an answer is read in the forms below or not at all, no number is clipped to the scale, two
different answers in one text are none, and prose is not searched for numbers ("an artifacts score of 2" may mean few
artifacts or a bad mark). Forms of scores, tried in this order:

    object    {"reasoning": "...", "score": [8, 7]} or {"success": 8, "over_edit": 7}, fenced or not, anywhere
    numbers   nothing but the numbers, with or without names: "8, 7", "success: 8, over_edit: 7",
              "score 1: 8, score 2: 7", "8 for success, 7 for over-edit"
    keyed     as an object where JSON is broken, for example by quotes within the reasoning, and as lines of a list:
              "score": [8, 7], or - **success**: 8/10
    list      [8, 7] or [8], [7] on a line of its own
    lines     lines that hold nothing but the numbers with their names, numbered or not

Numbers may be quoted. "8/10" and "8 out of 10" are 8 where 10 is the top of the scale, and nothing where it is not. A
text that goes on with a refusal after an answer, or that declines and gives an example of one, is a refusal.
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
_QUOTED = rf"""["']?{_NUMBER}["']?"""
_LIST = rf"\[\s*{_QUOTED}(?:\s*,\s*{_QUOTED})*\s*\]"
_BETWEEN = r"(?:\s*[,;]\s*|\s+)"
"""What stands between one score and the next."""
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
_EXAMPLE = re.compile(
    r"\bexample\b|\be\.g\.|\bsuch as\b|\bformat\b|\bform\b|\bwould (?:be|look|answer|say)\b", re.IGNORECASE
)

Spellings = tuple[str, ...]
"""The canonical names of one score, the first of which messages use."""


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


def read_scores(
    text: str, names: Sequence[str | Sequence[str]], least: float, most: float, *, finished: bool = True
) -> Reading:
    """One number for each name, each from `least` to `most`. Where a score has several names (the question's word and
    others that judges use), give them as a list. `finished` False: the text was cut off, which is a failure.

    >>> read_scores('```json\\n{"reasoning": "fine", "score": [8, 7]}\\n```', ["success", "over_edit"], 0, 10).scores
    (8.0, 7.0)
    """
    answer, failure = _answer(text, finished)
    if failure:
        return failure
    spellings = tuple(tuple(map(canonical, [name] if isinstance(name, str) else name)) for name in names)
    values, rest = objects(answer)
    found, form = _find_scores(values, _unmarked(straight(rest), most), spellings, most)
    rationale = _rationale(values, answer)
    if not found:
        return _nothing(answer, f"no {len(names)} scores")
    if _declines(answer, form):
        return Reading(form=form, rationale=rationale, status="refused", error=f"the judge declined: {_short(answer)}")
    if len(found) > 1 or isinstance(found[0], str):
        wrong = next((one for one in found if isinstance(one, str)), f"{len(found)} different answers in one text")
        return Reading(form=form, rationale=rationale, status="parse_error", error=wrong)
    scores = found[0]
    off = [f"{name[0]} {value:g}" for name, value in zip(spellings, scores, strict=True) if not least <= value <= most]
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
    if told and _declines(answer, "keyed"):
        return Reading(rationale=answer, status="refused", error=f"the judge declined: {_short(answer)}")
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


def _declines(answer: str, form: str) -> bool:
    """Whether the judge declines after an answer, or declines and gives an answer as an example."""
    text = straight(answer)
    last = r"\}" if form == "object" else r"\]" if form == "list" else r"[\d\]}]"
    ends = [match.end() for match in re.finditer(last, text)]
    before, after = text[: ends[-1]] if ends else text, text[ends[-1] :] if ends else ""
    if _REFUSAL.search(after[:400]):
        return True
    start = re.search(r"[{\[]", before)
    prose = before[: start.start()] if start else ""
    return bool(_REFUSAL.search(prose[:400]) and _EXAMPLE.search(prose))


def _unmarked(text: str, most: float) -> str:
    """The text without marks of Markdown, and without the top of the scale behind a number."""
    # Marks between two digits stay: what they part must not become one number.
    text = re.sub(
        r"(?<![\d*`_])(?:[*`]|__)[*`_]*+|(?:[*`]|__)[*`_]*+(?!\d)|^[ \t]*[#>]+", " ", text, flags=re.MULTILINE
    )
    text = re.sub(r"^[ \t]*(?:[-\u2013\u2022+]|\d+[.)](?=\s*[\"'\[(]*[^\W\d]))[ \t]+", "", text, flags=re.MULTILINE)
    top = re.escape(f"{most:g}")
    return re.sub(rf"(?<![\d./])({_NUMBER})\s*(?:/|out of)\s*{top}(?![\d/]|\.\d)", r"\1", text, flags=re.IGNORECASE)


def _find_scores(
    values: list[Any], plain: str, names: tuple[Spellings, ...], most: float
) -> tuple[list[tuple[float, ...] | str], str]:
    """The different scores in the first form that gives any (for what cannot be read: why), and the form. `values` are
    the objects of an answer, `plain` is the text without them.
    """
    told = [one for value in values for found in entries(value) for one in _of_object(found, names, most)]
    keyed = list(_keyed(plain, names)) if plain.count("{") <= plain.count("}") else []
    forms: tuple[tuple[str, Sequence[tuple[float, ...] | str]], ...] = (
        ("object", [*told, *keyed] if told else []),
        ("numbers", list(_whole(plain, names))),
        ("keyed", keyed),
        ("list", list(_lists_alone(plain, names))),
        ("lines", list(_lines(plain, names))),
    )
    for form, found in forms:
        if found:
            return list(dict.fromkeys(found)), form
    return [], ""


def _of_object(found: dict[str, Any], names: tuple[Spellings, ...], most: float) -> Iterator[tuple[float, ...] | str]:
    for key in _SCORE_KEYS:
        value = found.get(key)
        if isinstance(value, str) and re.fullmatch(_LIST, value.strip()):
            yield _sized(_numbers(value), names)
        elif isinstance(value, list):
            numbers = [number for one in value if (number := _number(one, most)) is not None]
            if len(numbers) < len(value):
                yield f"{key} is not a list of numbers: {_short(str(value))}"
            else:
                yield _sized(tuple(numbers), names)
        elif len(names) == 1 and (number := _number(value, most)) is not None:
            yield (number,)
    for keys in (names, _numbered(len(names))):
        several = [
            {number for spelling in key if (number := _number(found.get(spelling), most)) is not None} for key in keys
        ]
        if all(several):
            yield _single(several, keys)


def _numbered(count: int) -> tuple[Spellings, ...]:
    """What scores are called that have no names."""
    return tuple((f"score{i + 1}", f"score_{i + 1}") for i in range(count))


def _sized(numbers: tuple[float, ...], names: tuple[Spellings, ...]) -> tuple[float, ...] | str:
    same = len(numbers) == len(names)
    return numbers if same else f"{len(numbers)} numbers where {len(names)} were asked for"


def _single(numbers: Sequence[set[float]], names: Sequence[Spellings]) -> tuple[float, ...] | str:
    """One number for each name, or for which there are several."""
    several = [name[0] for name, values in zip(names, numbers, strict=True) if len(values) > 1]
    return f"several numbers for {several[0]}" if several else tuple(values.pop() for values in numbers)


def _number(value: Any, most: float) -> float | None:
    if isinstance(value, str) and re.fullmatch(_NUMBER, plain := _unmarked(value, most).strip()):
        value = float(plain)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _keyed(text: str, names: tuple[Spellings, ...]) -> Iterator[tuple[float, ...] | str]:
    for one in re.findall(rf"""{_BEFORE}scores?["']?\s*[:=]\s*({_LIST})""", text, re.IGNORECASE):
        yield _sized(_numbers(one), names)
    after = rf"""["']?\s*[:=]\s*["']?({_NUMBER})["']?[ \t]*\.?(?:\s*[,}}]|[ \t]*\n|\s*$)"""
    values = [set(map(float, re.findall(_BEFORE + _words(name) + after, text, re.IGNORECASE))) for name in names]
    if all(values):
        yield _single(values, names)


def _lists_alone(text: str, names: tuple[Spellings, ...]) -> list[tuple[float, ...] | str]:
    lines = re.findall(rf"""^["'`\t ]*{_LIST}(?:\s*,\s*{_LIST})*["'`\t ,.]*$""", text, re.MULTILINE)
    lists = [_numbers(one) for line in lines for one in re.findall(_LIST, line)]
    if len(lists) > 1 and all(len(one) == 1 for one in lists):  # [8], [7]
        lists = [tuple(number for one in lists for number in one)]
    return [_sized(one, names) for one in lists]


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(float, re.findall(_NUMBER, text)))


def _whole(text: str, names: tuple[Spellings, ...]) -> Iterator[tuple[float, ...]]:
    """Scores where the text holds nothing else."""
    number = rf"""["']?({_NUMBER})["']?"""
    patterns = [
        _BETWEEN.join(rf"{_key(name)}\s*[:=]?\s*{number}" for name in keys) for keys in (names, _numbered(len(names)))
    ]
    patterns.append(_BETWEEN.join(rf"{number}\s+for\s+{_key(name)}" for name in names))
    patterns.append(_BETWEEN.join(map(_key, names)) + r"\s*[:=]\s*" + _BETWEEN.join([number] * len(names)))
    patterns.append(_BETWEEN.join([number] * len(names)))
    for pattern in patterns:
        if match := re.fullmatch(rf"[(\s]*{pattern}[)\s.]*", text, re.IGNORECASE):
            yield tuple(map(float, match.groups()))


def _lines(text: str, names: tuple[Spellings, ...]) -> Iterator[tuple[float, ...]]:
    """Scores with names on lines that hold nothing else."""
    for keys in (names, _numbered(len(names))):
        pattern = _BETWEEN.join(rf"{_key(name)}\s*[:=]\s*({_NUMBER})" for name in keys)
        for match in re.finditer(rf"^[ \t]*{pattern}[ \t]*[.,;]?[ \t]*$", text, re.IGNORECASE | re.MULTILINE):
            yield tuple(map(float, match.groups()))


def _key(name: Spellings) -> str:
    """A pattern for a name that may stand in quotes or brackets."""
    return rf"""["'\[]*{_words(name)}["'\]]*"""


def _words(name: Spellings) -> str:
    """A pattern for any spelling of a name, however its words are joined."""
    return "(?:" + "|".join(re.escape(spelling).replace("_", r"[\W_]+") for spelling in name) + ")"


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
