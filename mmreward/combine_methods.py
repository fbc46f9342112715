"""The methods by which a combination makes one number of several in [0, 1]; see `mmreward.combine`."""

__all__ = ["BaseAndBonus", "Geometric", "Method", "Minimum", "Weighted", "Weights"]

import math
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, Field

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weights = Annotated[dict[str, Weight], Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class Weighted(BaseModel, extra="forbid", frozen=True):
    """Weighted mean: sum_i w_i v_i / sum_i w_i, over what was measured."""

    method: Literal["weighted"] = "weighted"
    weights: Weights

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, values: Mapping[str, float]) -> float:
        return math.fsum(share * values[name] for name, share in self.shares(values).items())

    def shares(self, measured: Collection[str]) -> dict[str, float]:
        """The weights of those that were measured, as parts of 1."""
        return _shares({name: weight for name, weight in self.weights.items() if name in measured})


class Geometric(BaseModel, extra="forbid", frozen=True):
    """Weighted geometric mean: prod_i v_i^(w_i / sum w). With two equal weights it is sqrt(SC x PQ) of VIEScore
    (Ku et al., "VIEScore: Towards Explainable Metrics for Conditional Image Synthesis Evaluation", ACL 2024,
    https://arxiv.org/abs/2312.14867). One zero makes the whole zero.
    """

    method: Literal["geometric"] = "geometric"
    weights: Weights

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.uses

    def __call__(self, values: Mapping[str, float]) -> float:
        return math.prod(values[name] ** share for name, share in _shares(self.weights).items())


class Minimum(BaseModel, extra="forbid", frozen=True):
    """The smallest: an edit is as good as what is worst about it (VIEScore takes it within SC and within PQ)."""

    method: Literal["minimum"] = "minimum"
    of: Annotated[list[str], Field(min_length=1)]

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(self.of)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.uses

    def __call__(self, values: Mapping[str, float]) -> float:
        return min(values[name] for name in self.of)


class BaseAndBonus(BaseModel, extra="forbid", frozen=True):
    """Base and bonus: base x prod_i (1 - b_i + b_i v_i).

    With the base "was the request carried out" and the bonus "was all else kept" at b = 0.4 this is
    base x (0.6 + 0.4 v): the reward of FIRM (VisionXLab, 2026, https://github.com/VisionXLab/FIRM-Reward), there CME =
    execution x (0.6 + 0.4 consistency); with quality as the bonus it has the shape of their QMA for generation. An edit
    that changes nothing keeps everything and still gets nothing, which no weighted mean achieves. Several bonuses
    multiply, as in the oracle of the shapes world.
    """

    method: Literal["base_and_bonus"] = "base_and_bonus"
    base: str
    bonus: dict[str, Share] = {}

    @property
    def uses(self) -> tuple[str, ...]:
        return (self.base, *self.bonus)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.uses

    def __call__(self, values: Mapping[str, float]) -> float:
        return values[self.base] * math.prod(1 - b + b * values[name] for name, b in self.bonus.items())


Method = Annotated[Weighted | Geometric | Minimum | BaseAndBonus, Field(discriminator="method")]
"""How values in [0, 1] become one. `uses` are the names that a method looks at, `needs` those it cannot do without; it
is called with what was measured: all of `needs` and at least one of `uses`."""


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
