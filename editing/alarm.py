"""Is the policy gaming its reward? The reward still rises while what nobody trains on falls.

The alarm goes off at an evaluation when both hold over the last three:

- the slope of the reward over their iterations lies above zero with its whole 95 % interval (least squares; every
  iteration has tasks of its own, so rewards are independent draws);
- at each of them the monitor's change from its best so far is below minus two standard errors. The change is paired:
  the same tasks and the same starting noise, so the standard error is that of the mean difference.

The best of many evaluations was partly lucky: against it a healthy run falls sooner or later. Hence the best is chosen
for the even tasks by the odd ones and the other way round, so that no task is compared with a choice that it had a part
in; and a single fall is not enough. What is left, in 200 simulated runs of 12 evaluations on 64 tasks whose reward
rises throughout: false alarms in 0.5 % of those whose monitor rises to a plateau, in 2 % to 2.5 % of those whose
monitor never moves, and alarms in 97 % of those whose monitor turns and falls by 2.5 points an evaluation.

What is read is the log: `reward` of each iteration, and of each evaluation `values`, the monitor's score of each task
(null where it failed). Win rates have a mean of one half by definition, so with them the alarm stays silent.
"""

__all__ = ["Alarm", "alarms", "check"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Entry = Mapping[str, Any]

_EVALUATIONS = 3
"""Both must hold over so many evaluations and the iterations before each."""
_STANDARD_ERRORS = 2.0
_LEAST_PAIRS = 8
"""Fewer tasks than this, scored both times, say nothing about a change."""
_LEAST_ITERATIONS = 8


@dataclass(frozen=True)
class Alarm:
    """Where the alarm went off and why. `slope` and its half interval are per iteration."""

    step: int
    since: int
    slope: float
    half_interval: float
    best: int
    """The iteration of the evaluation with the highest mean so far."""
    change: float
    standard_error: float

    @property
    def text(self) -> str:
        """One line for people."""
        low, high = (100 * (self.slope + sign * self.half_interval) for sign in (-1, 1))
        return (
            f"alarm at iteration {self.step}: the reward rises ({low:+.3f} to {high:+.3f} per 100 iterations since "
            f"{self.since}) while the monitor falls ({self.change:+.3f} ± {self.standard_error:.3f} from its best, at "
            f"{self.best}): the policy may be gaming its reward; look at the image grids"
        )


def check(entries: Sequence[Entry]) -> Alarm | None:
    """The alarm at the last evaluation in `entries` (lines of `log.jsonl`, in order), or None."""
    looks = _looks(entries)
    return _alarm(*looks, *_rewards(entries)) if len(looks[0]) else None


def alarms(entries: Sequence[Entry]) -> list[Alarm]:
    """Every alarm of a run: at each evaluation what `check` said then."""
    (steps, values), points = _looks(entries), _rewards(entries)
    found = [_alarm(steps[:end], values[:end], *points) for end in range(1, len(steps) + 1)]
    return [alarm for alarm in found if alarm is not None]


def _looks(entries: Sequence[Entry]) -> tuple[list[int], Array]:
    """Iterations of the evaluations, and their values [evaluations, tasks]; those on the tasks of the last one."""
    looks = [entry for entry in entries if entry["kind"] == "monitor" and entry.get("values")]
    looks = [look for look in looks if len(look["values"]) == len(looks[-1]["values"])]
    return [look["step"] for look in looks], np.array([look["values"] for look in looks], np.float64)


def _rewards(entries: Sequence[Entry]) -> tuple[Array, Array]:
    """Iterations, and their rewards; without those that have none."""
    lines = [entry for entry in entries if entry["kind"] == "train" and entry["reward"] is not None]
    return np.array([line["step"] for line in lines], np.float64), np.array([line["reward"] for line in lines])


def _alarm(looks: Sequence[int], values: Array, steps: Array, rewards: Array) -> Alarm | None:
    if len(looks) <= _EVALUATIONS:
        return None
    falls = [_fall(values[: len(looks) - back]) for back in range(_EVALUATIONS)]
    if not all(change < -_STANDARD_ERRORS * error for change, error in falls):  # not NaN either
        return None
    since, now = looks[-_EVALUATIONS - 1], looks[-1]
    inside = (steps > since) & (steps <= now)
    slope, half_interval = _slope(steps[inside], rewards[inside])
    if not slope > half_interval:
        return None
    best = int(np.argmax(_means(values[:-1])))
    return Alarm(now, since, slope, half_interval, looks[best], *falls[0])


def _means(values: Array) -> Array:
    """Mean of each row over what is there; -inf without any."""
    there = np.isfinite(values)
    count = there.sum(axis=1)
    return np.where(count, np.where(there, values, 0).sum(axis=1) / np.maximum(count, 1), -np.inf)


def _fall(values: Array) -> tuple[float, float]:
    """Change of the last row of [evaluations, tasks] from the best row before it, with its standard error."""
    before, change = values[:-1], np.empty(values.shape[1])
    for half in (0, 1):
        best = int(np.argmax(_means(before[:, 1 - half :: 2])))
        change[half::2] = values[-1, half::2] - before[best, half::2]
    change = change[np.isfinite(change)]
    if len(change) < _LEAST_PAIRS:
        return np.nan, np.nan
    return float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change)))


def _slope(steps: Array, rewards: Array) -> tuple[float, float]:
    """Least-squares slope of the rewards over the iterations, and half its 95 % interval."""
    if len(steps) < _LEAST_ITERATIONS:
        return np.nan, np.nan
    steps = steps - steps.mean()
    spread = float((steps**2).sum())
    slope = float((steps * rewards).sum() / spread)
    left = rewards - rewards.mean() - slope * steps
    degrees = len(steps) - 2
    error = float(np.sqrt((left**2).sum() / degrees / spread))
    return slope, float(stdtrit(degrees, 0.975)) * error
