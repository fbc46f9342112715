"""Way of judging "checklist": what the instruction asks for as statements, each verified by the probability of Yes.

The statements of an instruction are the user's (`instructions` in the question set, a YAML file), else the judge writes
them itself, once for each source and instruction; those under `checks` are asked of every edit. With p_i the
probability of Yes among Yes and No, and w_i the statement's weight (1 if not given),

    overall = sum_i w_i p_i / sum_i w_i        a dimension: the same over its statements

The spread is that of independent answers, sqrt(sum_i w_i^2 p_i (1 - p_i)) / sum_i w_i. Statements that the judge writes
count to instruction_following. As overall is a mean, an untouched copy gets what the statements about preservation and
quality weigh; give these small weights, or none, where the score is trained on.

A statement whose answer cannot be read makes the score a failure: a mean over the others would be another measure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmreward.judge.backends.backend import Backend
from mmreward.judge.labels import Answer
from mmreward.judge.options import take_number, take_whole
from mmreward.judge.parse import Reading
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.judge.question import LabelWording, fill, load_wording, optional
from mmreward.judge.way import Group
from mmreward.judge.ways.answered import FLOOR, share, unread
from mmreward.judge.ways.breakdown import Breakdown
from mmreward.score import Score, Spread

__all__ = ["OPTIONS", "Check", "Checklist", "ChecklistSet", "asking", "load", "no_yes"]

OPTIONS = ("question", "floor", "max_new_tokens")

_GENERAL = "checklist-1"
_YES = 1


def load(options: dict[str, str], card: Mapping[str, Any]) -> Checklist:
    """Options: `question` (checklist-1 or the path of your own), `floor` (least probability on the labels, default
    0.5), `max_new_tokens` (of the list that the judge writes, default 512).
    """
    name = options.pop("question", "") or card.get("questions", {}).get("checklist", _GENERAL)
    floor = take_number(options, "floor", FLOOR, 0, 1)
    questions = load_wording(ChecklistSet, "checklist", name)
    return Checklist(questions, floor, take_whole(options, "max_new_tokens", 512))


class Check(BaseModel):
    """A statement that is true of a good edit; in YAML the text alone will do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    dim: str = "instruction_following"

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value


class ChecklistSet(LabelWording):
    """`ask` lets the judge write the statements of an instruction; without it, only those given here are asked."""

    places = {
        "ask": ({"instruction", "source"}, {"criteria", "most"}),
        "shared": ({"instruction", "source"}, {"criteria"}),
        "candidate": ({"edited"}, set()),
        "statement": ({"statement"}, set()),
        "criteria": ({"criteria"}, set()),
    }

    ask: str | None = None
    shared: str
    candidate: str
    statement: str
    criteria: str | None = None
    most: int = Field(default=8, ge=1)
    checks: tuple[Check, ...] = ()
    instructions: dict[str, tuple[Check, ...]] = Field(default_factory=dict)

    @field_validator("labels")
    @classmethod
    def _no_yes(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        return no_yes(labels)

    @model_validator(mode="after")
    def _something(self) -> ChecklistSet:
        if not (self.ask or self.checks or self.instructions):
            raise ValueError("nothing to check: give ask, checks or instructions")
        return self

    @property
    def dims(self) -> tuple[str, ...]:
        """Dimensions that a score may hold."""
        given = [*self.checks, *(one for checks in self.instructions.values() for one in checks)]
        return tuple(dict.fromkeys([*(["instruction_following"] if self.ask else []), *(one.dim for one in given)]))

    def known(self, instruction: str) -> tuple[Check, ...]:
        """The user's statements for an instruction; blanks and capitals do not matter."""
        return next((own for text, own in self.instructions.items() if _plain(text) == _plain(instruction)), ())

    def prompt(self, group: Group, checks: Sequence[Check]) -> Prompt:
        """All statements about all candidates; answers come candidate by candidate."""
        criteria = optional(self.criteria, criteria=group.criteria)
        asked = tuple(Prompt(fill(self.statement.strip(), statement=one.text), answer=self.prefix) for one in checks)
        branches = tuple(Prompt(fill(self.candidate, edited=image), asked) for image in group.edited)
        return Prompt(
            fill(self.shared, instruction=group.instruction, source=group.source, criteria=criteria), branches
        )


def no_yes(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Checks the labels of a question that is answered with no or yes."""
    if len(labels) != 2:
        raise ValueError(f"labels are those of no and yes, in this order, got {list(labels)}")
    return labels


def asking(words: str, criteria: str | None, most: int, group: Group) -> Prompt:
    """What the judge is asked for a list of an instruction's parts."""
    places = {"criteria": optional(criteria, criteria=group.criteria), "most": (Fixed(str(most)),)}
    return Prompt(fill(words, instruction=group.instruction, source=group.source, **places))


class Checklist:
    """`overall` is the weighted mean of the statements' probabilities, `dims` are those of its statements. `rationale`
    lists the statements with their probabilities, in the order of `raw["check_1"]`, `raw["check_2"]`, …
    """

    def __init__(self, questions: ChecklistSet, floor: float = FLOOR, max_new_tokens: int = 512) -> None:
        self.questions, self.floor = questions, floor
        self.version, self.dims = questions.version, questions.dims
        self._written: Breakdown | None = None
        if words := questions.ask:
            self._written = Breakdown(
                lambda group: asking(words, questions.criteria, questions.most, group), "checks", questions.most,
                max_new_tokens,
            )  # fmt: skip

    def check(self, backend: Backend) -> None:
        self.questions.check(backend)

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        lists = self._lists(groups, backend)
        asked = [place for place, one in enumerate(lists) if not isinstance(one, Score)]
        prompts = [self.questions.prompt(groups[place], lists[place]) for place in asked]
        told = dict(zip(asked, backend.probabilities(prompts, self.questions.labels), strict=True)) if asked else {}
        scores = []
        for place, (group, checks) in enumerate(zip(groups, lists, strict=True)):
            if isinstance(checks, Score):
                scores.append([checks] * len(group.edited))
                continue
            each, answers = len(checks), told[place]
            scores.append([
                self._score(checks, answers[start : start + each]) for start in range(0, len(answers), each)
            ])  # fmt: skip
        return scores

    def _lists(self, groups: Sequence[Group], backend: Backend) -> list[Any]:
        """The checks of each group, or the score of all its edits where there are none."""
        own = [self.questions.known(group.instruction) for group in groups]
        asked = [place for place, checks in enumerate(own) if not checks]
        written: dict[int, Reading] = {}
        if self._written and asked:
            written = dict(zip(asked, self._written.of([groups[place] for place in asked], backend), strict=True))
        lists: list[Any] = []
        for place, checks in enumerate(own):
            reading = written.get(place)
            if reading and reading.status != "ok":
                error = f"the list of what to check: {reading.error}"
                lists.append(Score.failed(reading.status, error, rationale=reading.rationale))
                continue
            made = tuple(Check(text=text) for text in reading.items) if reading else checks
            lists.append((*made, *self.questions.checks) or _NONE)
        return lists

    def _score(self, checks: Sequence[Check], answers: Sequence[Answer]) -> Score:
        provenance = {"way": "checklist", "floor": self.floor}
        raw: dict[str, float] = {}
        for number, (check, answer) in enumerate(zip(checks, answers, strict=True), 1):
            if failure := unread(answer, self.floor):
                return Score.failed(failure[0], f"{check.text!r}: {failure[1]}", raw=raw, provenance=provenance)
            raw |= {f"check_{number}": share(answer, _YES), f"check_{number}_mass": answer.mass}
        yes = [(check, raw[f"check_{number}"]) for number, check in enumerate(checks, 1)]
        dims = {dim: _mean([one for one in yes if one[0].dim == dim]) for dim in self.dims}
        total = sum(check.weight for check in checks)
        variance = sum(check.weight**2 * p * (1 - p) for check, p in yes)
        return Score(
            _mean(yes),
            {dim: value for dim, value in dims.items() if not math.isnan(value)},
            rationale="\n".join(f"{p:.2f} {check.text}" for check, p in yes),
            spread=Spread("token", math.sqrt(variance) / total),
            raw=raw,
            provenance=provenance,
        )


_NONE = Score.failed("not_applicable", "the question set has no statement for this instruction, and none for all")


def _mean(yes: Sequence[tuple[Check, float]]) -> float:
    """Weighted mean of probabilities, NaN of none."""
    total = sum(check.weight for check, _ in yes)
    return min(sum(check.weight * p for check, p in yes) / total, 1.0) if yes else math.nan


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
