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

from mmreward.judge.labels import Answer
from mmreward.score import Score, Spread

__all__ = ["FLOOR", "Expectation", "expectation", "score_of"]

FLOOR = 0.5
"""Least share of probability on the labels: below it the model would rather have said something else."""

_BONUS = {"preservation": 0.4, "quality": 0.5}


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


def score_of(answers: Mapping[str, Answer], floor: float, provenance: Mapping[str, Any]) -> Score:
    """The score of one candidate from its answers by dimension, which must hold "instruction_following"."""
    found: dict[str, Expectation] = {}
    raw = {f"{name}_mass": answer.mass for name, answer in answers.items() if answer.status == "ok"}
    for name, answer in answers.items():
        if answer.status != "ok":
            return Score.failed(answer.status, f"{name}: {answer.error}", raw=raw, provenance=provenance)
        if answer.mass < floor:
            reason = (
                f"{name}: the labels hold {answer.mass:.3g} of the probability, less than {floor:g}; the model does "
                "not answer with a label. Ask with another question set, or lower ?floor"
            )
            return Score.failed("parse_error", reason, raw=raw, provenance=provenance)
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
    for name, share in _BONUS.items():
        if name in found:
            one = found[name]
            factors.append(Expectation(1 - share + share * one.mean, share * one.deviation))
    return factors
