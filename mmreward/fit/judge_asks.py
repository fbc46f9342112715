"""What the tiny judge is asked while it learns: questions as token ids, and the answers that the oracle gives to them.

scores     a digit for each dimension: two neighbouring digits weighted so that their expectation is the label
checks     No or Yes: whether a dimension reaches a threshold, one for each statement of the checklist
compared   A or B, the first or the second edit: 1/2 for equal labels, certain from a difference of 0.1 on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mmreward.judge.question import QuestionSet, load_wording
from mmreward.judge.ways.checklist import ChecklistSet
from mmreward.judge.ways.pairwise import PairSet
from mmreward.shapes.oracle import overall

__all__ = ["Ask", "Frame", "compared", "frame_of", "soft_digits", "true_answers"]

DIMS = ("instruction_following", "preservation", "quality")
THRESHOLDS: Mapping[str, float] = {
    "done": 0.95,
    "begun": 0.4,
    "kept": 0.95,
    "mostly kept": 0.7,
    "clean": 0.9,
    "clear": 0.6,
}
"""A statement of the checklist is true of an edit whose label in the statement's dimension reaches this."""

_CERTAIN = 0.1


@dataclass(frozen=True)
class Ask:
    """A question: its token ids with what follows it up to the answer, those of the labels from worst to best, what it
    is about (a dimension, or "overall"), and for a check the threshold.
    """

    tokens: tuple[int, ...]
    labels: tuple[int, ...]
    dim: str
    threshold: float | None = None


@dataclass(frozen=True)
class Frame:
    """The fixed text as token ids: before the instruction, around an image, the questions about one candidate (those
    for `scores` first, then the checks) and about two.
    """

    head: tuple[int, ...]
    image: tuple[int, int]
    asks: tuple[Ask, ...]
    pair_asks: tuple[Ask, ...] = ()

    @property
    def scores(self) -> int:
        """How many of the questions ask for a score."""
        return sum(ask.threshold is None for ask in self.asks)

    @property
    def checks(self) -> int:
        return len(self.asks) - self.scores


def frame_of(
    processor: Any, questions: QuestionSet, checklist: str | None = None, pairwise: str | None = None
) -> Frame:
    """The text of question sets. They must hold no text of their own but the questions. Raises ValueError."""
    _bare(questions.version, questions.shared, questions.candidate)

    def ids(text: str) -> tuple[int, ...]:
        return tuple(processor.tokenizer(text)["input_ids"])

    def labels(words: Sequence[str]) -> tuple[int, ...]:
        return tuple(ids(word)[0] for word in words)

    message = [{"role": "user", "content": [{"type": "text", "text": "{here}"}]}]
    head, tail = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False).split("{here}")
    start, end = ids("<|vision_start|><|vision_end|>")
    asks = [Ask(ids(text + tail), labels(questions.labels), dim) for dim, text in questions.questions.items()]
    if checklist:
        checks = load_wording(ChecklistSet, "checklist", checklist)
        _bare(checks.version, checks.shared, checks.candidate, checks.statement)
        asks += [
            Ask(ids(one.text + tail), labels(checks.labels), one.dim, _threshold(checks.version, one.text))
            for one in checks.checks
        ]
    pair_asks: list[Ask] = []
    if pairwise:
        pairs = load_wording(PairSet, "pairwise", pairwise)
        _bare(pairs.version, pairs.shared, pairs.first, pairs.second)
        pair_asks = [Ask(ids(text + tail), labels(pairs.labels), dim) for dim, text in pairs.questions.items()]
    return Frame(ids(head), (start, end), tuple(asks), tuple(pair_asks))


def true_answers(ask: Ask, labels: Tensor) -> Tensor:
    """What a question about one candidate should be answered: labels [..., 3] to a distribution [..., L]."""
    value = labels[..., DIMS.index(ask.dim)]
    if ask.threshold is None:
        return soft_digits(value, len(ask.labels))
    yes = (value >= ask.threshold).float()
    return torch.stack([1 - yes, yes], -1)


def compared(ask: Ask, first: Tensor, second: Tensor) -> Tensor:
    """What a question about two candidates should be answered: labels [..., 3] of both to (first, second) [..., 2]."""
    ahead = _value(ask.dim, first) - _value(ask.dim, second)
    better = (0.5 + ahead / (2 * _CERTAIN)).clamp(0, 1)
    return torch.stack([better, 1 - better], -1)


def soft_digits(labels: Tensor, count: int) -> Tensor:
    """Labels [...] in [0, 1] as distributions [..., count] over equally spaced digits with that expectation."""
    place = labels.clamp(0, 1) * (count - 1)
    return (1 - (place[..., None] - torch.arange(count, device=labels.device)).abs()).clamp(min=0)


def _value(dim: str, labels: Tensor) -> Tensor:
    values: Any = labels.unbind(-1)
    value: Any = overall(*values) if dim == "overall" else values[DIMS.index(dim)]
    return cast(Tensor, value)


def _bare(version: str, shared: str, *others: str) -> None:
    allowed = {"{edited}", "{statement}"}
    if shared != "{instruction}{source}" or not set(others) <= allowed:
        raise ValueError(f"the tiny judge needs a bare question set, such as shapes-1; {version} is not one")


def _threshold(version: str, statement: str) -> float:
    if statement not in THRESHOLDS:
        raise ValueError(
            f"{version}: no threshold for the statement {statement!r}; there is one for {list(THRESHOLDS)}"
        )
    return THRESHOLDS[statement]
