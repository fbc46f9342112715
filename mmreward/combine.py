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

Without `dims`, each dimension is the plain mean over the members that measure it. `overall: null` makes no one number
of them (`Reward.has_overall`); of a member that has none itself, the dimensions can be used.

**No member raises a score by failing.** A combination fails when a member fails, with that member's status. A member
marked `optional` is left out where it does not apply to the *task* (`Reward.applies`: an empty instruction, a source
out of its domain), which no candidate has a say in. When it fails at anything else, an edited image that it cannot read
or compare among them, the combination fails. The weights of dimensions and of a weighted mean are taken over the rest,
also where a member gives no value for a dimension of an edit, and provenance says which and how much. A minimum, a
geometric mean and base and bonus need all that they are made of: leaving out a factor would score the edit as if it
were perfect there. The former two take no optional member.

`Score.parts` holds the members' scores by name; `raw` stays empty, a combination has no raw numbers of its own.
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
    "opened",
    "with_overall",
]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, field_validator

from mmreward.combine_methods import BaseAndBonus, Geometric, Method, Minimum, Weighted, Weights
from mmreward.config import ConfigError, read_config, read_yaml
from mmreward.edit import Edit
from mmreward.reward import Reward, load_reward, scores_of, unknown
from mmreward.score import Failure, Score


@dataclass(frozen=True)
class Member:
    """`optional`: left out where it does not apply to the task, see the module."""

    reward: Reward
    optional: bool = False


class Combination(Reward):
    """Several rewards as one; `overall` is what the method of the combination makes of members and dimensions."""

    def __init__(
        self,
        name: str,
        members: Mapping[str, Member],
        overall: Method | None,
        dims: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.name = name
        self.members = dict(members)
        self.overall = overall
        dims = _plain_means(members) if dims is None else dims
        self._means = {dim: Weighted(weights=dict(weights)) for dim, weights in dims.items()}
        self.dims = tuple(self._means)
        self._check_dims()
        if overall is not None:
            self._check_overall(overall)
        elif not self.dims:
            raise ConfigError(f"{name}: without an overall a combination needs dimensions, and its members have none")

    @property
    def needs_group(self) -> bool:
        """Whether a member compares the edits of a group."""
        return any(member.reward.needs_group for member in self.members.values())

    @property
    def has_overall(self) -> bool:
        """Whether a method makes one number of members and dimensions."""
        return self.overall is not None

    def _check_dims(self) -> None:
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

    def _check_overall(self, method: Method) -> None:
        known = [*self._means, *self.members]
        for name in method.uses:
            if name not in known:
                raise ConfigError(f"{self.name}, overall: {unknown('dimension or member', name, known)}")
            if name in self.members and not self.members[name].reward.has_overall:
                there = ", ".join(self.members[name].reward.dims)
                raise ConfigError(
                    f"{self.name}, overall: the member {name!r} measures dimensions and has no overall; name a "
                    f"dimension in its place: {there}"
                )
            made_of = self._means[name].uses if name in self._means else (name,)
            if isinstance(method, Geometric | Minimum) and (left := [m for m in made_of if self.members[m].optional]):
                raise ConfigError(
                    f"{self.name}, overall: {name!r} counts in a method that needs all that it is made of "
                    f"({method.method}), and {', '.join(left)} is optional: where it is left out, an edit would score "
                    "as if it were perfect there. Take `optional` away, or use the method weighted"
                )

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where all members do that are not optional, and any that is."""
        failures = {name: member.reward.applies(edit) for name, member in self.members.items()}
        for name, failure in failures.items():
            if failure and (not self.members[name].optional or all(failures.values())):
                return Failure(failure.status, f"{name}: {failure.error}")
        return None

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        columns = {name: _member_scores(member, edits) for name, member in self.members.items()}
        return [self._combine({name: column[row] for name, column in columns.items()}) for row in range(len(edits))]

    def _combine(self, columns: Mapping[str, "_MemberScore"]) -> Score:
        scores = {name: column.score for name, column in columns.items()}
        left_out = {name: str(column.score.error) for name, column in columns.items() if column.left_out}
        provenance: dict[str, Any] = {
            "reward": self.name,
            "overall": self.overall.model_dump() if self.overall else None,
            "members": {name: dict(score.provenance) for name, score in scores.items()},
        }
        failed = {name: score for name, score in scores.items() if not score.ok and name not in left_out}
        if failed:
            return _failed(failed, provenance, scores)

        values = {name: score.overall for name, score in scores.items() if score.ok and score.has_overall}
        dims: dict[str, float] = {}
        renormalised: dict[str, dict[str, float]] = {}
        for dim, mean in self._means.items():
            measured = {name: scores[name].dims[dim] for name in mean.uses if dim in scores[name].dims}
            if measured:
                dims[dim] = _unit(mean(measured))
                if len(measured) < len(mean.uses):
                    renormalised[dim] = mean.shares(measured)
        values |= dims
        needs, uses = (self.overall.needs, self.overall.uses) if self.overall else ((), self.dims)
        missing = [name for name in needs if name not in values]
        if missing or not any(name in values for name in uses):
            error = f"no member measured {' and '.join(missing or uses)} here"
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            error += f" (left out: {reasons})" if reasons else ""
            return Score.failed("not_applicable", error, provenance=provenance, parts=scores)
        if isinstance(self.overall, Weighted) and any(name not in values for name in uses):
            renormalised["overall"] = self.overall.shares(values)
        if left_out:
            provenance["left_out"] = left_out
        if renormalised:
            provenance["weights"] = renormalised  # as parts of 1, over what is left
        said = [f"{name}: {score.rationale}" for name, score in scores.items() if score.rationale]
        return Score(
            overall=_unit(self.overall(values)) if self.overall else math.nan,
            dims=dims,
            rationale="\n".join(said) or None,
            provenance=provenance,
            parts=scores,
            has_overall=self.has_overall,
        )


@dataclass(frozen=True)
class _MemberScore:
    score: Score
    left_out: bool = False


def _member_scores(member: Member, edits: Sequence[Edit]) -> list[_MemberScore]:
    """What a member says of each edit. An optional one is not asked where it does not apply."""
    reasons = [_why_left_out(member.reward, edit) if member.optional else None for edit in edits]
    asked = [edit for edit, reason in zip(edits, reasons, strict=True) if reason is None]
    scores = iter(scores_of(member.reward, asked) if asked else [])
    provenance = {"reward": member.reward.name}
    return [
        _MemberScore(next(scores))
        if reason is None
        else _MemberScore(Score.failed(reason.status, reason.error, provenance=provenance), left_out=True)
        for reason in reasons
    ]


def _why_left_out(reward: Reward, edit: Edit) -> Failure | None:
    try:
        failure = reward.applies(edit)
    except Exception:  # an image that cannot be opened: scoring says so
        return None
    return failure if failure and failure.status == "not_applicable" else None


def _failed(failed: Mapping[str, Score], provenance: Mapping[str, Any], parts: Mapping[str, Score]) -> Score:
    """The status of the first member that failed; one that does not apply hides no fault of another."""
    faults = {name: score for name, score in failed.items() if score.status != "not_applicable"} or failed
    reasons: dict[str, list[str]] = {}
    for name, score in faults.items():
        reasons.setdefault(str(score.error), []).append(name)
    errors = "; ".join(f"{', '.join(members)}: {error}" for error, members in reasons.items())
    status = next(iter(faults.values())).status
    return Score.failed(status, errors, provenance=provenance, parts=parts)


class _MemberConfig(BaseModel, extra="forbid", frozen=True):
    reward: Any
    optional: bool = False


class _CombinationConfig(BaseModel, extra="forbid", frozen=True):
    name: str = "combination"
    members: Annotated[dict[str, _MemberConfig], Field(min_length=1)]
    dims: dict[str, Weights] | None = None
    overall: Method | None

    @field_validator("members", mode="before")
    @classmethod
    def _short_members(cls, members: Any) -> Any:
        """`judge: vlm:tiny` is short for `judge: {reward: vlm:tiny}`."""
        if not isinstance(members, Mapping):
            raise ValueError("should be a mapping of names to rewards, such as {judge: vlm:tiny, pixels: pixels}")
        return {name: _as_member(name, member) for name, member in members.items()}

    @field_validator("overall", mode="before")
    @classmethod
    def _names_its_method(cls, overall: Any) -> Any:
        if overall is None or (isinstance(overall, Mapping) and "method" in overall) or isinstance(overall, BaseModel):
            return overall
        raise ValueError(
            "should name its method, as in {method: weighted, weights: {…}}; there is: weighted, geometric, minimum, "
            "base_and_bonus, and null for dimensions only"
        )


def _as_member(name: Any, member: Any) -> Any:
    if isinstance(member, str | Path):
        return {"reward": member}
    if isinstance(member, Mapping) and not {"members", "overall"} & set(member):
        return dict(member)
    got = "a combination; write it behind reward:" if isinstance(member, Mapping) else type(member).__name__
    raise ValueError(f"{name!r} should be a name, a YAML path or {{reward: …, optional: true}}, got {got}")


class _Circle(ConfigError):
    """Says itself where it is; the places through which it was reached would repeat it."""


_DEEPEST = 16
_opening: ContextVar[tuple[str, ...]] = ContextVar("opening", default=())


@contextmanager
def opened(path: Path) -> Iterator[dict[str, Any]]:
    """The mapping in a combination's YAML file, for as long as its members are looked at. Raises ConfigError for a file
    that is opened within itself, as a combination that contains itself would be.
    """
    with _inside(str(Path(path).resolve())):
        yield read_yaml(path)


@contextmanager
def _inside(file: str = "") -> Iterator[None]:
    """Within a file, or within a mapping (""), whose members are being looked at."""
    places = (*_opening.get(), file)
    if file and file in places[:-1]:
        circle = " -> ".join(Path(name).name for name in places[places.index(file) :] if name)
        raise _Circle(f"{file} contains itself ({circle}); a combination cannot be its own member")
    if len(places) > _DEEPEST:
        where = next(filter(None, places), "a mapping")
        raise _Circle(f"{where} holds combinations within combinations, {_DEEPEST} deep: does one contain itself?")
    token = _opening.set(places)
    try:
        yield
    finally:
        _opening.reset(token)


def from_mapping(
    mapping: Mapping[str, Any], where: str = "the combination", load: Callable[[Any], Reward] = load_reward
) -> Combination:
    """Build a combination from the mapping that the module docstring shows. `load` makes a member of its spec."""
    config = read_config(_CombinationConfig, mapping, where)
    members = {}
    with _inside():
        for name, member in config.members.items():
            try:
                members[name] = Member(load(member.reward), member.optional)
            except _Circle:
                raise
            except ValueError as error:
                raise ConfigError(f"{where}, member {name!r}: {error}") from None
        return Combination(config.name, members, config.overall, config.dims)


def from_yaml(path: Path) -> Combination:
    """Build a combination from a YAML file."""
    with opened(path) as mapping:
        return from_mapping(mapping, str(path))


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
