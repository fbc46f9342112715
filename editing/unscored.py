"""Does the policy hide in what cannot be scored? Refusals and parse errors, group by group, and whether they grow.

A candidate without a score costs the policy nothing (its weight is 0), so a policy may drift to where the judge
declines or stumbles. Counted is the share of such candidates in each group: candidates of one group are alike, so
groups, not candidates, are what varies independently. The alarm compares the later half of the last iterations with
the earlier.
"""

__all__ = ["Unscored"]

import math
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from mmreward.score import Score, Status

HIDING: tuple[Status, ...] = ("refused", "parse_error")
_ITERATIONS = 20
_STANDARD_ERRORS = 3.0


class Unscored:
    """The shares of the last iterations. `state` is for a checkpoint."""

    def __init__(self, state: Sequence[Sequence[float]] = ()) -> None:
        self.state: deque[list[float]] = deque((list(shares) for shares in state), maxlen=_ITERATIONS)

    def add(self, scores: Sequence[Score], groups: Sequence[str]) -> dict[str, Any]:
        """What to log of an iteration: counts, the groups that have any, and the largest share in one."""
        hidden = Counter(group for score, group in zip(scores, groups, strict=True) if score.status in HIDING)
        shares = [hidden[group] / count for group, count in Counter(groups).items()]
        self.state.append(shares)
        counts = Counter(score.status for score in scores)
        found: dict[str, Any] = {status: counts[status] for status in HIDING}
        found |= {"groups": len(hidden), "largest_share": max(shares, default=0.0)}
        if alarm := self.alarm():
            found["alarm"] = alarm
        return found

    def alarm(self) -> str | None:
        """What to tell people if the share is rising by more than chance would have it, else None."""
        if len(self.state) < _ITERATIONS:
            return None
        history, half = list(self.state), _ITERATIONS // 2
        before, after = _moments(history[:half]), _moments(history[half:])
        rise, error = after[0] - before[0], math.sqrt(before[1] + after[1])
        if rise <= 0 or rise <= _STANDARD_ERRORS * error:
            return None
        return (
            f"refusals and parse errors rose from {before[0]:.1%} to {after[0]:.1%} of a group within {_ITERATIONS} "
            "iterations: the policy may be hiding from the reward; look at the image grids"
        )


def _moments(iterations: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean over all groups, and the variance of that mean."""
    values = [share for shares in iterations for share in shares]
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1) / len(values)
