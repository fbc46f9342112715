"""Way of judging "expected score": the expectation over the labels of an answer, from one forward pass.

With labels k = 0..n-1 from worst to best and probabilities p_k restricted to them,

    score = sum_k p_k k / (n - 1)          spread = the standard deviation of k / (n - 1) under p

After Y. Liu et al., "G-Eval", 2023, and the logit reward of UniWorld-V2 / Edit-R1 (2025). Unlike there, an answer that
cannot be read is no score: where the labels hold less than `floor` of the full vocabulary's probability, it is a parse
error.

The overall takes following as the base and the other two as a bonus that it multiplies, so that an untouched copy
cannot win by keeping everything:

    overall = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality)

Its spread treats the answers as independent: the variance of the product from the moments of its factors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmreward.judge.backends.backend import Backend
from mmreward.judge.labels import Answer
from mmreward.judge.options import take_number
from mmreward.judge.question import QuestionSet, load_questions
from mmreward.judge.way import Group
from mmreward.judge.ways.answered import FLOOR, unread
from mmreward.score import Score, Spread

__all__ = ["FLOOR", "OPTIONS", "Expectation", "ExpectedScore", "expectation", "load", "score_of"]

OPTIONS = ("question", "floor")

_GENERAL = "edit-1"

BONUS = {"preservation": 0.4, "quality": 0.5}


@dataclass(frozen=True)
class Expectation:
    """Mean and standard deviation of an answer, on [0, 1]."""

    mean: float
    deviation: float


def expectation(probabilities: Sequence[float]) -> Expectation:
    """Expectation of equally spaced labels under probabilities (which need not sum to 1).

    >>> expectation([0, 0, 0, 0, 0.5, 0.5]).mean
    0.9
    """
    total, last = sum(probabilities), len(probabilities) - 1
    mean = sum(p * k for k, p in enumerate(probabilities)) / total / last
    square = sum(p * k * k for k, p in enumerate(probabilities)) / total / last**2
    return Expectation(min(max(mean, 0.0), 1.0), math.sqrt(max(square - mean * mean, 0.0)))


def load(options: dict[str, str], card: Mapping[str, Any]) -> ExpectedScore:
    """Options: `question` (name of a bundled question set or path of your own; default: the one that the model's card
    names, else edit-1), `floor` (least probability on the labels, default 0.5).
    """
    floor = take_number(options, "floor", FLOOR, 0, 1)
    name = options.pop("question", "") or card.get("questions", {}).get("expected", _GENERAL)
    return ExpectedScore(load_questions(name), floor)


class ExpectedScore:
    """A question a dimension. All questions about all candidates of a source go to the backend as one prompt."""

    def __init__(self, questions: QuestionSet, floor: float = FLOOR) -> None:
        if "instruction_following" not in questions.questions:
            raise ValueError(
                f"question set {questions.version} does not ask for instruction_following, the base of overall"
            )
        self.questions, self.floor = questions, floor
        self.version = questions.version
        self.dims = tuple(questions.questions)

    def check(self, backend: Backend) -> None:
        self.questions.check(backend)

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        prompts = [self.questions.prompt(one.instruction, one.source, one.edited, one.criteria) for one in groups]
        told = backend.probabilities(prompts, self.questions.labels)
        return [self._scores(found) for found in told]

    def _scores(self, found: Sequence[Answer]) -> list[Score]:
        """Scores of a group from its answers, which come candidate by candidate."""
        each = len(self.dims)
        own = (found[start : start + each] for start in range(0, len(found), each))
        return [score_of(dict(zip(self.dims, one, strict=True)), self.floor, {"way": "expected"}) for one in own]


def score_of(answers: Mapping[str, Answer], floor: float, provenance: Mapping[str, Any]) -> Score:
    """The score of one candidate from its answers by dimension, which must hold "instruction_following"."""
    found: dict[str, Expectation] = {}
    raw = {f"{name}_mass": answer.mass for name, answer in answers.items() if answer.status == "ok"}
    for name, answer in answers.items():
        if failure := unread(answer, floor):
            return Score.failed(failure[0], f"{name}: {failure[1]}", raw=raw, provenance=provenance)
        found[name] = expectation(answer.probabilities)
    for name, answer in answers.items():
        raw |= {f"{name}_p{label}": value for label, value in enumerate(answer.probabilities)}
    mean, square = 1.0, 1.0
    for factor in _factors(found):
        mean *= factor.mean
        square *= factor.mean**2 + factor.deviation**2
    spread = Spread("token", math.sqrt(max(square - mean * mean, 0.0)))
    dims = {name: one.mean for name, one in found.items()}
    return Score(mean, dims, spread=spread, raw=raw, provenance=provenance)


def _factors(found: Mapping[str, Expectation]) -> list[Expectation]:
    factors = [found["instruction_following"]]
    for name, share in BONUS.items():
        if name in found:
            one = found[name]
            factors.append(Expectation(1 - share + share * one.mean, share * one.deviation))
    return factors
