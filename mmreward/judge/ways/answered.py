"""When an answer in probabilities of labels is one: not where the labels hold too little of the full vocabulary."""

from __future__ import annotations

from mmreward.judge.labels import Answer
from mmreward.score import Status

__all__ = ["FLOOR", "share", "unread"]

FLOOR = 0.5
"""Least share of probability on the labels: below it the model would rather have said something else."""


def unread(answer: Answer, floor: float) -> tuple[Status, str] | None:
    """None where the answer can be used, else a status and the reason."""
    if answer.status != "ok":
        return answer.status, answer.error or "no answer"
    if answer.mass >= floor and answer.mass > 0:
        return None
    return "parse_error", (
        f"the labels hold {answer.mass:.3g} of the probability, less than {floor:g}; the model does not answer with a "
        "label. Ask with another question set, or lower ?floor"
    )


def share(answer: Answer, label: int) -> float:
    """Probability of one label among all labels."""
    return min(max(answer.probabilities[label] / sum(answer.probabilities), 0.0), 1.0)
