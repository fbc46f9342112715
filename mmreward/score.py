"""A score: what a reward says about one edit, or why it says nothing.

`overall` is in [0, 1], higher is better. A failure is a status with a reason and NaN; it is never a number, so that
means, rankings and training can leave it out and count it instead.
"""

__all__ = ["STATUSES", "DIMENSIONS", "Failure", "Score", "Spread", "Status"]

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Status = Literal["ok", "io_error", "timeout", "parse_error", "refused", "not_applicable", "error"]
STATUSES: tuple[str, ...] = get_args(Status)
"""
- `ok`: there is a number.
- `io_error`: an image is missing, unreadable or oversized; a server failed after all retries.
- `timeout`: no answer in time.
- `parse_error`: no number, a number off the scale, too little probability on the labels, non-finite output.
- `refused`: the judge declined to answer.
- `not_applicable`: the reward does not apply (empty instruction, out of the domain, …): never a fault of machine
  or software, and the one status that counts as no failure.
- `error`: a library raised, memory ran out: a fault of machine or software.
"""

DIMENSIONS = ("instruction_following", "preservation", "quality")
"""The usual dimensions. A reward may measure others too."""


@dataclass(frozen=True)
class Failure:
    """Why there is no value: what a function returns in place of one for a row that it cannot do."""

    status: Status
    error: str
    """What failed, which file or key, and how to mend it."""


@dataclass(frozen=True)
class Spread:
    """How uncertain `overall` is: a standard deviation on the scale of `overall`, and where it comes from.

    `token`: of the label distribution; `passes`: between repeated judgements; `head`: predicted by the model. The
    kinds measure different things and are never averaged together.
    """

    kind: Literal["token", "passes", "head"]
    value: float


@dataclass(frozen=True)
class Score:
    """`dims` holds the dimensions that the reward measured, each in [0, 1]; others are absent. `raw` keeps the numbers
    before they were squashed into [0, 1], `provenance` what made them (model, revision, dtype, preprocessing, …),
    `parts` the scores of the members of a combination, by their names.

    A reward that measures dimensions and has no one number for them gives scores with `has_overall` False: status ok,
    dimensions, and NaN as `overall`.
    """

    overall: float
    dims: Mapping[str, float] = field(default_factory=dict)
    status: Status = "ok"
    error: str | None = None
    rationale: str | None = None
    spread: Spread | None = None
    raw: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, "Score"] = field(default_factory=dict)
    has_overall: bool = True

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"Score.status must be one of {', '.join(STATUSES)}; got {self.status!r}")
        if self.status == "ok":
            if not self.has_overall and not (math.isnan(self.overall) and self.dims):
                raise ValueError(f"a Score without an overall has dimensions and overall = NaN, got {self.overall}")
            numbers = {"overall": self.overall, **self.dims} if self.has_overall else self.dims
            for name, value in numbers.items():
                if not 0.0 <= value <= 1.0:  # also false for NaN
                    raise ValueError(f"an ok Score has {name} in [0, 1], got {value}; a failure is Score.failed(...)")
        elif not self.error or not math.isnan(self.overall):
            raise ValueError(f"a Score with status {self.status!r} needs overall = NaN and an error that says why")

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @classmethod
    def failed(
        cls,
        status: Status,
        error: str,
        *,
        rationale: str | None = None,
        raw: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
        parts: Mapping[str, "Score"] | None = None,
    ) -> "Score":
        """The score of an edit that could not be scored: `status`, the reason, and NaN."""
        return cls(math.nan, {}, status, error, rationale, None, raw or {}, provenance or {}, parts or {})
