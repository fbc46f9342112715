"""How well scores agree with exact labels: rank correlation, and order within groups.

A pair is two candidates of one group whose true overall differs by at least `MARGIN`; it is right when the scores
order it the same way, half right when they tie. A hard pair lies at similar pixel distance from the source (mean
absolute difference within 30 %), and neither of the two is a copy of the source: so "how much changed" cannot tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["MARGIN", "Pairs", "hard_pairs", "order", "spearman"]

MARGIN = 0.1


@dataclass(frozen=True)
class Pairs:
    """Share of pairs ordered right, and their number."""

    right: float
    count: int


def spearman(scores: np.ndarray, labels: np.ndarray) -> float:
    """Spearman's rank correlation, NaN where one side is constant."""
    from scipy.stats import spearmanr

    if np.ptp(scores) == 0 or np.ptp(labels) == 0:
        return float("nan")
    return float(spearmanr(scores, labels).statistic)


def order(
    scores: Sequence[np.ndarray], labels: Sequence[np.ndarray], hard: Sequence[np.ndarray] | None = None
) -> Pairs:
    """Order of pairs over groups of scores and labels [K]; `hard` bool [K, K] keeps the pairs that it marks."""
    right, count = 0.0, 0
    for index, (score, label) in enumerate(zip(scores, labels, strict=True)):
        wanted = label[:, None] - label[None] >= MARGIN
        if hard is not None:
            wanted &= hard[index]
        difference = (score[:, None] - score[None])[wanted]
        right += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
        count += int(wanted.sum())
    return Pairs(right / count if count else float("nan"), count)


def hard_pairs(source: np.ndarray, images: Sequence[np.ndarray]) -> np.ndarray:
    """Which pairs of images uint8 [64, 64, 3] are hard: bool [K, K]."""
    distance = np.asarray([np.abs(image.astype(np.float32) - source).mean() for image in images])
    near = np.maximum(distance[:, None], distance) <= 1.3 * np.minimum(distance[:, None], distance)
    moved = distance > 0.5
    return near & moved[:, None] & moved
