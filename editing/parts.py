"""The parts of a reward, for advantages that normalise each by itself (GDPO).

A sum of normalised parts suits a reward that is a weighted mean. It undoes one that is an AND: a minimum, a geometric
mean, or base and bonus, where an edit that changes nothing keeps everything and still gets nothing. In a sum, keeping
everything would earn as much as doing what was asked. So for these the recipe must say what becomes of the AND:

    advantage: {normalise: parts, conjunction: gate}

- `gate` (base and bonus): a candidate counts in the bonuses by its base, in their means and in what they add to it.
  Where the request was not carried out nothing else counts, and those that carried it out are compared with each other.
- `drop`: the parts are summed all the same; right where the AND was never meant, or the parts are gated themselves.

Other rewards make their `overall` in their own way; for them the recipe names the dimensions and says `drop`.
"""

__all__ = ["Parts", "parts_of"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editing.advantage import AdvantageConfig, PartValues
from mmreward.combine import BaseAndBonus, Combination, Geometric, Minimum, Weighted
from mmreward.config import ConfigError
from mmreward.reward import Reward, unknown
from mmreward.score import Score


@dataclass(frozen=True)
class Parts:
    """Names with their weights; `base` is the one that gates the others, or None."""

    weights: Mapping[str, float]
    base: str | None = None

    def values(self, scores: Sequence[Score]) -> PartValues:
        """What `scores` say of each part: a dimension, or the overall of a member of a combination."""
        table = [[_part(score, name) for name in self.weights] for score in scores]
        return PartValues(
            torch.tensor(table, dtype=torch.float64).view(len(scores), len(self.weights)),
            torch.tensor(list(self.weights.values()), dtype=torch.float64),
            None if self.base is None else list(self.weights).index(self.base),
        )


def parts_of(reward: Reward, config: AdvantageConfig) -> Parts | None:
    """The parts that `config` asks for, or None where the overall is normalised. Refuses to drop an AND unasked."""
    if config.normalise == "overall":
        return None
    method = reward.overall if isinstance(reward, Combination) else None
    known = [*reward.dims, *reward.members] if isinstance(reward, Combination) else list(reward.dims)
    weights = dict(config.parts or _weights(method))
    if not weights:
        raise ConfigError(
            f"advantage.normalise: parts: the reward {reward.name!r} does not say what its overall is made of; name "
            f"its parts and their weights in advantage.parts; it has: {', '.join(known) or 'none'}"
        )
    for name in weights:
        if name not in known:
            raise ConfigError(f"advantage.parts: {unknown('part', name, known)}")
    if len(weights) < 2:
        raise ConfigError(f"advantage.parts: {', '.join(weights)} alone is no sum; name two, or normalise overall")
    return Parts(weights, _base(reward, method, weights, config))


def _weights(method: object) -> dict[str, float]:
    match method:
        case Weighted() | Geometric():
            return dict(method.weights)
        case Minimum():
            return dict.fromkeys(method.of, 1.0)
        case BaseAndBonus():
            return {method.base: 1.0, **method.bonus}
    return {}


def _base(reward: Reward, method: object, weights: Mapping[str, float], config: AdvantageConfig) -> str | None:
    if config.conjunction == "gate":
        if not isinstance(method, BaseAndBonus) or method.base not in weights:
            raise ConfigError(
                "advantage.conjunction: gate needs a combination with the method base_and_bonus and its base among the "
                f"parts; {reward.name!r} is {_kind(method)}, its parts are {', '.join(weights)}"
            )
        return method.base
    if config.conjunction is None and not isinstance(method, Weighted):
        raise ConfigError(
            f"advantage.normalise: parts would turn {reward.name!r} ({_kind(method)}) into a plain sum, in which "
            "keeping everything can pay for doing nothing. Say what becomes of the AND: advantage.conjunction: gate "
            "(base and bonus only) or drop; or set advantage.normalise: overall"
        )
    return None


def _kind(method: object) -> str:
    return str(getattr(method, "method", "a reward with an overall of its own"))


def _part(score: Score, name: str) -> float:
    if not score.ok:
        return math.nan
    if name in score.dims:
        return score.dims[name]
    part = score.parts.get(name)  # a failed one has NaN
    return part.overall if part else math.nan
