"""Preferences: which of two edits of one source is better, or why nothing can be said about it.

    preferences = comparer(reward).compare([(first, second), ...])

Some rewards compare by themselves (`Comparer`: judges with way=pairwise). Any other reward compares by its scores.
"""

__all__ = ["Comparer", "Pair", "Preference", "comparer", "compare_scores"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, runtime_checkable

from mmreward.edit import Edit
from mmreward.reward import Reward, scores_of
from mmreward.score import STATUSES, Score, Status

Pair = tuple[Edit, Edit]
"""Two edits of one source by one instruction (and the same criteria)."""


@dataclass(frozen=True)
class Preference:
    """`first` is the probability that the first edit is the better one, `tie` that neither is; `second` is the rest.

    `consistent` says whether the judge preferred the same edit in both orders, None where order plays no part. Edits
    whose shares differ from 1/2 by no more than `margin` are called a tie by `verdict`. A failure is a status with a
    reason and NaN, as of a `Score`.
    """

    first: float
    tie: float = 0.0
    status: Status = "ok"
    error: str | None = None
    rationale: str | None = None
    consistent: bool | None = None
    margin: float = 0.0
    raw: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"Preference.status must be one of {', '.join(STATUSES)}; got {self.status!r}")
        if self.status != "ok":
            if not self.error or not math.isnan(self.first):
                raise ValueError(f"a Preference with status {self.status!r} needs first = NaN and an error")
        elif not (0 <= self.first <= 1 and 0 <= self.tie <= 1 and self.first + self.tie <= 1 + 1e-9):
            raise ValueError(f"first and tie are probabilities of one whole, got {self.first} and {self.tie}")

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def second(self) -> float:
        """Probability that the second edit is the better one."""
        return max(0.0, 1.0 - self.first - self.tie) if self.ok else math.nan

    @property
    def share(self) -> float:
        """What the first edit gets of one comparison: its probability of winning, and half of that of a tie."""
        return min(self.first + self.tie / 2, 1.0)

    @property
    def verdict(self) -> Literal["first", "second", "tie"] | None:
        """The better edit, None for a failure."""
        if not self.ok:
            return None
        if abs(self.share - 0.5) <= self.margin + 1e-12:  # rounding is no preference
            return "tie"
        return "first" if self.share > 0.5 else "second"

    @classmethod
    def failed(
        cls,
        status: Status,
        error: str,
        *,
        rationale: str | None = None,
        raw: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Preference":
        """The preference between edits that could not be compared: `status`, the reason, and NaN."""
        return cls(math.nan, math.nan, status, error, rationale, raw=raw or {}, provenance=provenance or {})


@runtime_checkable
class Comparer(Protocol):
    """Compares edits: one preference a pair, in order. Never raises for a bad pair: its preference has a status."""

    name: str

    def compare(self, pairs: Sequence[Pair]) -> list[Preference]: ...


def comparer(reward: Reward, margin: float = 0.0) -> Comparer:
    """The reward itself where it has a method `compare`, else one that compares by its scores; `margin`: a tie."""
    return cast(Comparer, reward) if isinstance(reward, Comparer) else _ByScores(reward, margin)


class _ByScores:
    def __init__(self, reward: Reward, margin: float) -> None:
        _require_overall(reward)
        self.reward, self.margin = reward, margin
        self.name = f"{reward.name} by scores"

    def compare(self, pairs: Sequence[Pair]) -> list[Preference]:
        return compare_scores(self.reward, pairs, self.margin)


def compare_scores(reward: Reward, pairs: Sequence[Pair], margin: float = 0.0) -> list[Preference]:
    """Preferences by the `overall` of any reward: the higher one wins, and a difference up to `margin` is a tie.

    A reward whose scores depend on the others of a group (`needs_group`) gets each pair as a group of its own, so that
    a preference is that of its pair. Raises ValueError for a reward that has no overall, before anything is scored.
    """
    _require_overall(reward)
    if reward.needs_group:
        scored = [scores_of(reward, pair) for pair in pairs]
        return [_between(first, second, margin) for first, second in scored]
    edits = list({id(edit): edit for pair in pairs for edit in pair}.values())
    places = {id(edit): place for place, edit in enumerate(edits)}
    scores = scores_of(reward, edits)
    return [_between(scores[places[id(first)]], scores[places[id(second)]], margin) for first, second in pairs]


def _require_overall(reward: Reward) -> None:
    if not reward.has_overall:
        raise ValueError(
            f"{reward.name} measures dimensions and has no overall to compare by; choose one of "
            f"{', '.join(reward.dims)}: mmreward.combine.with_overall(reward, DIMENSION)"
        )


def _between(first: Score, second: Score, margin: float) -> Preference:
    for name, score in (("first", first), ("second", second)):
        if not score.ok:
            return Preference.failed(score.status, f"{name}: {score.error}", provenance=score.provenance)
    difference = first.overall - second.overall
    raw = {"first": first.overall, "second": second.overall}
    tie = abs(difference) <= margin
    return Preference(float(difference > margin), float(tie), raw=raw, provenance=first.provenance)
