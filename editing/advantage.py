"""From scores to advantages: one number per member of a group, and a weight.

    A_i = clip((r_i - mean of the group) / max(deviation, floor), -limit, limit)

The deviation is the group's own, or that of all groups together ("global": r minus its group's mean, over the batch).
The floor keeps noise from becoming signal: it should not lie below the repeat noise of the reward. A missing score
(NaN) has weight 0, enters no mean and no deviation; a group with fewer than two scores left is dropped and counted.
Sources: GRPO (Shao et al., 2024, https://arxiv.org/abs/2402.03300), Flow-GRPO (https://arxiv.org/abs/2505.05470).
"""

__all__ = ["AdvantageConfig", "Advantages", "advantages", "repeat_noise"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor


class AdvantageConfig(BaseModel, extra="forbid", frozen=True):
    """How scores become advantages."""

    deviation: Literal["group", "global"] = "group"
    floor: float = Field(default=0.02, gt=0)
    clip: float = Field(default=5.0, gt=0)


@dataclass(frozen=True)
class Advantages:
    """One advantage and weight (0 or 1) per score, and what was left out."""

    values: Tensor
    weights: Tensor
    missing: int
    """Scores that were NaN."""
    dropped_groups: int
    """Groups with fewer than two scores."""
    deviation: float
    """Mean deviation inside the groups that were kept, before the floor."""


def advantages(scores: Tensor, groups: Sequence[str], config: AdvantageConfig, noise: float = 0.0) -> Advantages:
    """Advantages of `scores` [N], of which those with the same name in `groups` belong together.

    Args:
        noise: the measured repeat noise of the reward (`repeat_noise`); the floor is never below it.
    """
    if len(groups) != len(scores):
        raise ValueError(f"advantages: {len(groups)} group names for {len(scores)} scores; give one per score")
    scores = scores.detach().to("cpu", torch.float64)
    names = list(dict.fromkeys(groups))
    number = {name: place for place, name in enumerate(names)}
    index = torch.tensor([number[name] for name in groups], dtype=torch.long)
    valid = torch.isfinite(scores)

    def totals(values: Tensor) -> Tensor:
        return torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, values)

    counts = totals(valid.double())
    kept = valid & (counts >= 2)[index]
    weights = kept.double()
    filled = torch.where(kept, scores, 0.0)
    mean = totals(filled) / counts.clamp_min(1)
    centred = (filled - mean[index]) * weights
    by_group = (totals(centred.square()) / counts.clamp_min(1)).sqrt()
    if config.deviation == "group":
        deviation = by_group[index]
    else:
        deviation = (centred.square().sum() / weights.sum().clamp_min(1)).sqrt().expand_as(scores)
    values = (centred / deviation.clamp_min(max(config.floor, noise))).clamp(-config.clip, config.clip)
    used = counts >= 2
    return Advantages(
        values=values.float(),
        weights=weights.float(),
        missing=int((~valid).sum()),
        dropped_groups=int((~used).sum()),
        deviation=float(by_group[used].mean()) if used.any() else float("nan"),
    )


def repeat_noise(first: Tensor, second: Tensor) -> float:
    """Standard deviation of one score, from scoring the same edits twice; 0 where nothing could be compared."""
    difference = (first - second).double()
    difference = difference[torch.isfinite(difference)]
    return float((difference.square().mean() / 2).sqrt()) if len(difference) else 0.0
