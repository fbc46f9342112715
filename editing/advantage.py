"""From scores to advantages: one number per member of a group, and a weight.

    A_i = clip((r_i - mean of the group) / max(deviation, floor), -limit, limit)

The deviation is the group's own, or that of all groups together ("global": r minus its group's mean, over the batch).
The floor keeps noise from becoming signal: it does not lie below the measured repeat noise of what is normalised, the
overall or one part. A missing score
(NaN) has weight 0, enters no mean and no deviation; a group with fewer than two scores left is dropped and counted.

Groups that teach little can be left out, as weights, by their place among the groups of the batch (a fixed score would
mean something else for every reward): `quiet`, a share with the smallest deviation, and `saturated`, a share with the
highest mean.

Several rewards can be normalised one by one (GDPO), so that each counts by its weight and not by how far it happens to
spread: each part is normalised as above, the weighted sum of them is centred in its group again, and divided by its
deviation over the batch. That deviation is taken no smaller than independent parts would have, sqrt(sum of squared
weights), or parts below their floors would be blown up again. See `editing.parts` for what a sum does to a reward that
is no sum.

Sources: GRPO (Shao et al., 2024, https://arxiv.org/abs/2402.03300), Flow-GRPO (https://arxiv.org/abs/2505.05470), GDPO
(Liu et al., 2026, https://arxiv.org/abs/2601.05242).
"""

__all__ = ["AdvantageConfig", "Advantages", "PartValues", "advantages", "repeat_noise"]

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class AdvantageConfig(BaseModel, extra="forbid", frozen=True):
    """How scores become advantages."""

    deviation: Literal["group", "global"] = "group"
    floor: float = Field(default=0.02, gt=0)
    clip: float = Field(default=5.0, gt=0)
    quiet: Share = 0.0
    """Share of the groups, those with the smallest deviation, that get weight 0."""
    saturated: Share = 0.0
    """Share of the groups, those with the highest mean, that get weight 0."""
    normalise: Literal["overall", "parts"] = "overall"
    """What is normalised: the one number, or each of its parts by itself (GDPO)."""
    parts: dict[str, Weight] | None = None
    """With `parts`: names of dimensions (or members of a combination) and their weights; None: those of the reward."""
    conjunction: Literal["drop", "gate"] | None = None
    """With `parts`: what becomes of the AND of a reward that is no plain sum (see `editing.parts`)."""

    @model_validator(mode="after")
    def _only_with_parts(self) -> "AdvantageConfig":
        if self.normalise == "overall" and (self.parts is not None or self.conjunction is not None):
            raise ValueError("parts and conjunction go with `normalise: parts`; set that, or leave them out")
        if self.quiet + self.saturated >= 1:
            raise ValueError(f"quiet {self.quiet:g} and saturated {self.saturated:g} together leave no group")
        return self


@dataclass(frozen=True)
class PartValues:
    """The parts of N scores. `values` [N, M], NaN where a part is missing; `weights` [M]; `base`: the column in [0, 1]
    whose value weights the row in every other column, or None; `noise` [M]: repeat noise of each, None: none.
    """

    values: Tensor
    weights: Tensor
    base: int | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class Advantages:
    """One advantage and weight (0 or 1) per score, and what was left out."""

    values: Tensor
    weights: Tensor
    ranks: Tensor
    """How many members of its group are strictly better; for a member without a score, all of the scored ones."""
    missing: int
    """Scores that were NaN."""
    dropped_groups: int
    """Groups with fewer than two scores."""
    filtered_groups: int
    """Groups left out as quiet or saturated."""
    deviation: float
    """Mean deviation inside the groups that had two scores, before the floor."""

    def select(self, rows: slice) -> "Advantages":
        """Those of some scores; the counts stay those of all."""
        return replace(self, values=self.values[rows], weights=self.weights[rows], ranks=self.ranks[rows])


def advantages(
    scores: Tensor,
    groups: Sequence[str],
    config: AdvantageConfig,
    noise: float = 0.0,
    parts: PartValues | None = None,
) -> Advantages:
    """Advantages of `scores` [N], of which those with the same name in `groups` belong together.

    Args:
        noise: the measured repeat noise of the scores (`repeat_noise`); their floor is never below it.
        parts: what the scores consist of, where these are normalised one by one, each with its own floor.
    """
    if len(groups) != len(scores):
        raise ValueError(f"advantages: {len(groups)} group names for {len(scores)} scores; give one per score")
    scores = scores.detach().to("cpu", torch.float64)
    valid = torch.isfinite(scores)
    grouping = _Grouping(groups, valid)
    centred, deviations, means = grouping.centre(scores, grouping.kept.double())
    if parts is None:
        signal = centred
        values = centred / grouping.spread(centred, deviations, config.deviation).clamp_min(max(config.floor, noise))
    else:
        signal = values = _by_parts(parts, grouping, config)
    used = grouping.counts >= 2
    left_out = _filtered(deviations, means, used, config)
    return Advantages(
        values=values.clamp(-config.clip, config.clip).float(),
        weights=(grouping.kept & ~left_out[grouping.index]).float(),
        ranks=grouping.ranks(signal),
        missing=int((~valid).sum()),
        dropped_groups=int((~used).sum()),
        filtered_groups=int(left_out.sum()),
        deviation=float(deviations[used].mean()) if used.any() else float("nan"),
    )


class _Grouping:
    """N members in groups. `index` [N] is a member's group, `kept` [N] whether it counts: it has a score, and so has
    another one of its group.
    """

    def __init__(self, groups: Sequence[str], valid: Tensor) -> None:
        number = {name: place for place, name in enumerate(dict.fromkeys(groups))}
        self.size = len(number)
        self.index = torch.tensor([number[name] for name in groups], dtype=torch.long)
        self.counts = self.totals(valid.double())
        self.kept = valid & (self.counts >= 2)[self.index]

    def totals(self, values: Tensor) -> Tensor:
        """[groups]"""
        return torch.zeros(self.size, dtype=torch.float64).index_add_(0, self.index, values)

    def centre(self, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`values` less their group's weighted mean, times `weights`; weighted deviation and mean of each group."""
        totals = self.totals(weights)
        totals = torch.where(totals > 0, totals, 1.0)
        values = torch.where(weights > 0, values, 0.0)
        mean = self.totals(values * weights) / totals
        difference = values - mean[self.index]
        deviation = (self.totals(difference.square() * weights) / totals).sqrt()
        return difference * weights, deviation, mean

    def spread(self, centred: Tensor, deviations: Tensor, over: str) -> Tensor:
        """[N], the deviation that belongs to each member."""
        if over == "group":
            return deviations[self.index]
        return (centred.square().sum() / self.kept.sum().clamp_min(1)).sqrt().expand_as(centred)

    def ranks(self, values: Tensor) -> Tensor:
        """[N]"""
        together = self.index[:, None] == self.index[None, :]
        better = (values[None, :] > values[:, None]) | ~self.kept[:, None]
        return (together & better & self.kept[None, :]).sum(1)


def _by_parts(parts: PartValues, grouping: _Grouping, config: AdvantageConfig) -> Tensor:
    """[N], GDPO. A missing part leaves its weight to the others."""
    values, weights = parts.values.detach().to("cpu", torch.float64), parts.weights.double()
    noise = torch.zeros_like(weights) if parts.noise is None else parts.noise.double()
    floors = noise.clamp_min(config.floor).tolist()
    present = torch.isfinite(values) & grouping.kept[:, None]
    total, shares = torch.zeros(len(values), dtype=torch.float64), (present * weights).sum(1)
    for column, weight in enumerate(weights):
        counts = present[:, column].double()
        if parts.base is not None and column != parts.base:
            counts = counts * torch.where(present[:, parts.base], values[:, parts.base], 0.0)
        centred, deviations, _ = grouping.centre(values[:, column], counts)
        total += weight * centred / grouping.spread(centred, deviations, config.deviation).clamp_min(floors[column])
    total = total * weights.sum() / torch.where(shares > 0, shares, 1.0)
    centred, _, _ = grouping.centre(total, grouping.kept.double())
    over_batch = (centred.square().sum() / grouping.kept.sum().clamp_min(1)).sqrt()
    return centred / over_batch.clamp_min(float(weights.square().sum().sqrt()))


def _filtered(deviations: Tensor, means: Tensor, used: Tensor, config: AdvantageConfig) -> Tensor:
    """[groups], which of the groups in use are quiet or saturated."""
    left_out = torch.zeros_like(used)
    places = used.nonzero().flatten()
    for share, value, descending in ((config.quiet, deviations, False), (config.saturated, means, True)):
        order = value[places].argsort(descending=descending, stable=True)
        left_out[places[order[: int(share * len(places))]]] = True
    return left_out


def repeat_noise(first: Tensor, second: Tensor) -> float:
    """Standard deviation of one score, from scoring the same edits twice; 0 where nothing could be compared."""
    difference = (first - second).double()
    difference = difference[torch.isfinite(difference)]
    return float((difference.square().mean() / 2).sqrt()) if len(difference) else 0.0
