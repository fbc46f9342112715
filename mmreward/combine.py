"""Several rewards combined into one.

A combination has *members* (rewards), *dimensions* (each a weighted mean of what members measure of it) and one
*overall*, made from dimensions and members' overalls by one of four methods. As YAML:

    name: careful
    members:
      judge: vlm:tiny
      clip: {reward: clip:tiny, optional: true}
      pixels: pixels
    dims:
      instruction_following: {judge: 0.8, clip: 0.2}
      preservation: {judge: 0.5, pixels: 0.5}
    overall: {method: base_and_bonus, base: instruction_following, bonus: {preservation: 0.4}}

Without `dims`, each dimension is the plain mean over the members that measure it.

A combination fails when a member fails, with that member's status. A member marked `optional` may fail: weighted
means, geometric means and minima are then taken over the rest, and provenance says what was left out. A base or bonus
of which nothing is left fails, since leaving out a factor would score the edit as if it were perfect there.
"""

__all__ = [
    "BaseAndBonus",
    "Combination",
    "Geometric",
    "Member",
    "Method",
    "Minimum",
    "Weighted",
    "from_mapping",
    "from_yaml",
    "with_overall",
]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mmreward.config import ConfigError, read_config, read_yaml
from mmreward.edit import Edit
from mmreward.reward import Reward, load_reward, unknown
from mmreward.score import Score

Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weights = Annotated[dict[str, Weight], Field(min_length=1)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Mean(BaseModel, extra="forbid", frozen=True):
    weights: Weights

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(self.weights)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def _shares(self, values: Mapping[str, float]) -> dict[str, float]:
        present = {name: weight for name, weight in self.weights.items() if name in values}
        total = sum(present.values())
        return {name: weight / total for name, weight in present.items()}


class Weighted(_Mean, frozen=True):
    """Weighted mean: sum_i w_i v_i / sum_i w_i."""

    method: Literal["weighted"] = "weighted"

    def __call__(self, values: Mapping[str, float]) -> float:
        return math.fsum(share * values[name] for name, share in self._shares(values).items())


class Geometric(_Mean, frozen=True):
    """Weighted geometric mean: prod_i v_i^(w_i / sum w). With two equal weights it is sqrt(SC x PQ) of VIEScore
    (Ku et al., "VIEScore: Towards Explainable Metrics for Conditional Image Synthesis Evaluation", ACL 2024,
    https://arxiv.org/abs/2312.14867). One zero makes the whole zero.
    """

    method: Literal["geometric"] = "geometric"

    def __call__(self, values: Mapping[str, float]) -> float:
        return math.prod(values[name] ** share for name, share in self._shares(values).items())


class Minimum(BaseModel, extra="forbid", frozen=True):
    """The smallest: an edit is as good as what is worst about it (VIEScore takes it within SC and within PQ)."""

    method: Literal["minimum"] = "minimum"
    of: Annotated[list[str], Field(min_length=1)]

    @property
    def uses(self) -> tuple[str, ...]:
        return tuple(self.of)

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def __call__(self, values: Mapping[str, float]) -> float:
        return min(values[name] for name in self.of if name in values)


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
is called with what could be measured: all of `needs` and at least one of `uses`."""


@dataclass(frozen=True)
class Member:
    reward: Reward
    optional: bool = False


class Combination(Reward):
    """Several rewards as one; `overall` is what the method of the combination makes of members and dimensions."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Member],
        overall: Method,
        dims: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.name = name
        self.members = dict(members)
        self.overall = overall
        dims = _plain_means(members) if dims is None else dims
        self._means = {dim: Weighted(weights=dict(weights)) for dim, weights in dims.items()}
        self.dims = tuple(self._means)
        self._check()

    def _check(self) -> None:
        for dim, mean in self._means.items():
            if dim in self.members:
                raise ConfigError(f"{self.name}: {dim!r} is a dimension; give the member of that name another one")
            for member in mean.uses:
                if member not in self.members:
                    raise ConfigError(f"{self.name}, dims.{dim}: {unknown('member', member, self.members)}")
                measured = self.members[member].reward.dims
                if dim not in measured:
                    there = ", ".join(measured) or "none"
                    raise ConfigError(f"{self.name}, dims.{dim}: {member!r} does not measure it; it measures: {there}")
        known = [*self._means, *self.members]
        for name in self.overall.uses:
            if name not in known:
                raise ConfigError(f"{self.name}, overall: {unknown('dimension or member', name, known)}")

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        scores = {name: member.reward.score(edits) for name, member in self.members.items()}
        return [self._combine({name: scores[name][i] for name in scores}) for i in range(len(edits))]

    def _combine(self, scores: Mapping[str, Score]) -> Score:
        provenance: dict[str, Any] = {
            "reward": self.name,
            "overall": self.overall.model_dump(),
            "members": {name: dict(score.provenance) for name, score in scores.items()},
        }
        raw = {f"{name}.overall": score.overall for name, score in scores.items() if score.ok}
        raw |= {
            f"{name}.{key}": value
            for name, score in scores.items()
            for key, value in {**score.dims, **score.raw}.items()
        }
        failed = {name: score for name, score in scores.items() if not score.ok}
        required = [name for name in failed if not self.members[name].optional]
        if required:
            return self._failed(required, failed, raw, provenance)

        values = {name: score.overall for name, score in scores.items() if score.ok}
        dims = {}
        for dim, mean in self._means.items():
            measured = {name: scores[name].dims[dim] for name in mean.uses if dim in scores[name].dims}
            if measured:
                dims[dim] = _unit(mean(measured))
        values |= dims
        missing = [name for name in self.overall.needs if name not in values]
        if missing or not any(name in values for name in self.overall.uses):
            if failed:
                return self._failed(list(failed), failed, raw, provenance)
            names = " and ".join(missing or self.overall.uses)
            return Score.failed("not_applicable", f"no member measured {names} here", raw=raw, provenance=provenance)
        if failed:
            provenance["left_out"] = {name: f"{score.status}: {score.error}" for name, score in failed.items()}
        said = [f"{name}: {score.rationale}" for name, score in scores.items() if score.rationale]
        return Score(
            overall=_unit(self.overall(values)),
            dims=dims,
            rationale="\n".join(said) or None,
            raw=raw,
            provenance=provenance,
        )

    def _failed(
        self, names: Sequence[str], failed: Mapping[str, Score], raw: Mapping[str, float], provenance: Mapping[str, Any]
    ) -> Score:
        reasons: dict[str, list[str]] = {}
        for name in names:
            reasons.setdefault(str(failed[name].error), []).append(name)
        errors = "; ".join(f"{', '.join(members)}: {error}" for error, members in reasons.items())
        return Score.failed(failed[names[0]].status, errors, raw=raw, provenance=provenance)


class _MemberConfig(BaseModel, extra="forbid", frozen=True):
    reward: str | dict[str, Any]
    optional: bool = False


class _CombinationConfig(BaseModel, extra="forbid", frozen=True):
    name: str = "combination"
    members: Annotated[dict[str, str | _MemberConfig], Field(min_length=1)]
    dims: dict[str, Weights] | None = None
    overall: Method


def from_mapping(
    mapping: Mapping[str, Any], where: str = "the combination", load: Callable[[Any], Reward] = load_reward
) -> Combination:
    """Build a combination from the mapping that the module docstring shows. `load` makes a member of its spec."""
    config = read_config(_CombinationConfig, mapping, where)
    members = {}
    for name, member in config.members.items():
        member = _MemberConfig(reward=member) if isinstance(member, str) else member
        try:
            members[name] = Member(load(member.reward), member.optional)
        except ValueError as error:
            raise ConfigError(f"{where}, member {name!r}: {error}") from None
    return Combination(config.name, members, config.overall, config.dims)


def from_yaml(path: Path) -> Combination:
    """Build a combination from a YAML file."""
    return from_mapping(read_yaml(path), str(path))


def with_overall(reward: Reward, by: str | None = None) -> Reward:
    """`reward` where one number is needed: as it is, or by the dimension `by` in place of its overall. Raises
    ConfigError for a reward that has no overall where `by` is None, and for a dimension that it does not measure.
    """
    there = ", ".join(reward.dims) or "none"
    if by is None:
        if not reward.has_overall:
            raise ConfigError(
                f"{reward.name} measures dimensions and makes no one number of them; say which dimension counts: "
                f"--by DIMENSION (by: in a recipe); it measures: {there}"
            )
        return reward
    if by not in reward.dims:
        raise ConfigError(f"--by {by}: {unknown('dimension of ' + reward.name, by, reward.dims)}")
    name = f"{reward.name} by {by}"
    return Combination(name, {"reward": Member(reward)}, Weighted(weights={by: 1.0}), {by: {"reward": 1.0}})


def _plain_means(members: Mapping[str, Member]) -> dict[str, dict[str, float]]:
    dims = dict.fromkeys(dim for member in members.values() for dim in member.reward.dims)
    return {dim: {name: 1.0 for name, member in members.items() if dim in member.reward.dims} for dim in dims}


def _unit(value: float) -> float:
    """Rounding may carry a mean of values in [0, 1] past its ends by one unit in the last place."""
    return min(1.0, max(0.0, value))
