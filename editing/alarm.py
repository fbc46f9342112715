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

So there are three verdicts: alarm, healthy (one of the two does not hold), and unknown, where what is there cannot
tell: it would be an alarm or not by numbers that are missing. Win rates have a mean of one half by definition, so with
them it is always unknown.

What is read is the log: `reward` of each iteration, and of each evaluation `values`, the monitor's score of each task
(null where it failed).
"""

__all__ = ["Alarm", "Verdict", "alarms", "blind", "check", "verdicts"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from editing.recipe import Recipe

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


@dataclass(frozen=True)
class Verdict:
    """What the log says at an evaluation: `alarm`, `healthy`, or `unknown` where it cannot tell."""

    step: int
    kind: Literal["alarm", "healthy", "unknown"]
    why: str
    alarm: Alarm | None = None


def check(entries: Sequence[Entry], win_rates: bool = False) -> Verdict:
    """The verdict at the last evaluation in `entries` (lines of `log.jsonl`, in order). With `win_rates` the reward is
    one, and nothing can be told.
    """
    looks, values = _looks(entries)
    return _verdict(looks, values, *_rewards(entries), win_rates)


def verdicts(entries: Sequence[Entry], win_rates: bool = False) -> list[Verdict]:
    """At each evaluation what `check` said then."""
    (steps, values), points = _looks(entries), _rewards(entries)
    return [_verdict(steps[:end], values[:end], *points, win_rates) for end in range(1, len(steps) + 1)]


def alarms(entries: Sequence[Entry]) -> list[Alarm]:
    """Every alarm of a run."""
    return [verdict.alarm for verdict in verdicts(entries) if verdict.alarm]


def blind(recipe: "Recipe", win_rates: bool = False) -> list[str]:
    """Why the verdict on a run of `recipe` will be unknown, or can be no alarm; empty where it can ring."""
    loop, evaluation = recipe.loop, recipe.evaluation
    found = [_WIN_RATES] if win_rates else []
    if evaluation.monitor_tasks < _LEAST_PAIRS:
        found.append(f"evaluation.monitor_tasks is {evaluation.monitor_tasks}, and a fall needs {_LEAST_PAIRS} or more")
    logged = _EVALUATIONS * evaluation.every // loop.log_every
    if logged < _LEAST_ITERATIONS:
        found.append(
            f"{_EVALUATIONS} evaluations span {_EVALUATIONS * evaluation.every} iterations, of which loop.log_every: "
            f"{loop.log_every} logs {logged}, and a slope needs {_LEAST_ITERATIONS}: raise evaluation.every or lower "
            "loop.log_every"
        )
    if loop.steps and not loop.minutes and (count := 1 + math.ceil(loop.steps / evaluation.every)) <= _EVALUATIONS:
        found.append(
            f"{loop.steps} iterations have {count} evaluations, and it needs {_EVALUATIONS + 1}: lower evaluation.every"
        )
    return found


def _looks(entries: Sequence[Entry]) -> tuple[list[int], Array]:
    """Iterations of the evaluations, and their values [evaluations, tasks]; those on the tasks of the last one."""
    looks = [entry for entry in entries if entry["kind"] == "monitor" and entry.get("values")]
    looks = [look for look in looks if len(look["values"]) == len(looks[-1]["values"])]
    return [look["step"] for look in looks], np.array([look["values"] for look in looks], np.float64)


def _rewards(entries: Sequence[Entry]) -> tuple[Array, Array]:
    """Iterations, and their rewards; without those that have none."""
    lines = [entry for entry in entries if entry["kind"] == "train" and entry["reward"] is not None]
    return np.array([line["step"] for line in lines], np.float64), np.array([line["reward"] for line in lines])


_WIN_RATES = "it is trained on win rates, whose mean is one half by definition: no slope can be seen in them"


def _verdict(looks: Sequence[int], values: Array, steps: Array, rewards: Array, win_rates: bool) -> Verdict:
    now = looks[-1] if looks else 0

    def unknown(why: str) -> Verdict:
        return Verdict(now, "unknown", why)

    if win_rates:
        return unknown(_WIN_RATES)
    if not looks:
        return unknown(
            "the log has no scores of the monitor's single tasks, without which a fall cannot be told from noise"
        )
    if len(looks) <= _EVALUATIONS:
        return unknown(f"there are {len(looks)} evaluations, and it needs {_EVALUATIONS + 1}; lower evaluation.every")
    falls = [_fall(values[: len(looks) - back]) for back in range(_EVALUATIONS)]
    if any(fall and not fall.is_sure for fall in falls):
        return Verdict(now, "healthy", "the monitor does not fall for sure")
    if not all(falls):
        return unknown(
            f"fewer than {_LEAST_PAIRS} of the monitor's tasks have a score at each of the last evaluations; raise "
            "evaluation.monitor_tasks, or see why they fail"
        )
    since = looks[-_EVALUATIONS - 1]
    inside = (steps > since) & (steps <= now)
    if inside.sum() < _LEAST_ITERATIONS:
        return unknown(
            f"the monitor falls, and the log has {inside.sum()} iterations with a reward since {since} where a slope "
            f"needs {_LEAST_ITERATIONS}; raise evaluation.every or lower loop.log_every"
        )
    slope, half_interval = _slope(steps[inside], rewards[inside])
    if not slope > half_interval:
        return Verdict(now, "healthy", "the monitor falls, and the reward does not rise for sure")
    best, last = int(np.argmax(_means(values[:-1]))), falls[0]
    assert last is not None
    alarm = Alarm(now, since, slope, half_interval, looks[best], last.change, last.standard_error)
    return Verdict(now, "alarm", alarm.text, alarm)


@dataclass(frozen=True)
class _Fall:
    """Change of the monitor from its best."""

    change: float
    standard_error: float

    @property
    def is_sure(self) -> bool:
        return self.change < -_STANDARD_ERRORS * self.standard_error


def _means(values: Array) -> Array:
    """Mean of each row over what is there; -inf without any."""
    there = np.isfinite(values)
    count = there.sum(axis=1)
    return np.where(count, np.where(there, values, 0).sum(axis=1) / np.maximum(count, 1), -np.inf)


def _fall(values: Array) -> _Fall | None:
    """Change of the last row of [evaluations, tasks] from the best row before it; None with too few tasks."""
    before, change = values[:-1], np.empty(values.shape[1])
    for half in (0, 1):
        best = int(np.argmax(_means(before[:, 1 - half :: 2])))
        change[half::2] = values[-1, half::2] - before[best, half::2]
    change = change[np.isfinite(change)]
    if len(change) < _LEAST_PAIRS:
        return None
    return _Fall(float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))))


def _slope(steps: Array, rewards: Array) -> tuple[float, float]:
    """Least-squares slope of the rewards over the iterations, and half its 95 % interval."""
    from scipy.stats import linregress, t  # here: it takes half a second to import

    line = linregress(steps, rewards)
    return float(line.slope), float(t.ppf(0.975, len(steps) - 2) * line.stderr)
