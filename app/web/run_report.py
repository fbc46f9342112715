"""`report.html` of a reward training run, made from the files in its folder alone: numbers, curves, alarm, grids.

What the policy was trained on, what watched it, and what was measured at the end stand side by side under their roles;
below them the signs by which a policy that games its reward is known. A curve that the log does not have is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.web.report import Curve, Figure, Notice, Number, Report, Sheet, Table, write_report
from editing.report import Run, change_from_start, column, read_run
from editing.unscored import HIDING
from mmreward.score import STATUSES
from mmreward.training.log import format_seconds

__all__ = ["write_run_report"]

FAILURES = [status for status in STATUSES if status != "ok"]
_GRIDS = 3
"""The first, the last, and those between them at even distances."""
_ROWS = 3
"""Rows that could not be read, and are named."""
_EDGE = 10
"""Iterations whose mean is the reward at the start, and at the end."""


def write_run_report(folder: str | Path) -> Path:
    """Write `folder/report.html`, whole or not at all, and return its path. The run may still go on."""
    run = read_run(folder)
    return write_report(run.folder, _report(run))


def _report(run: Run) -> Report:
    roles = run.recipe.get("roles") or {}
    return Report(
        title=f"Training run {run.folder.resolve().name}",
        lead=_lead(run),
        notice=_notice(run),
        numbers=[*_numbers(run, roles), *_final(run, roles)],
        figures=[figure for figure in _figures(run) if figure.curves],
        sheets=_sheets(run.grids),
        tables=_tables(run),
        notes=[
            "The reward is measured on edits made with noise, of other tasks in every iteration; the monitor on the "
            "same tasks and from the same noise every time. Their levels cannot be compared, their directions can.",
            "The final measure was run once, on tasks that neither of them saw, with the same noise before and after.",
            *run.warnings,
            "Alarm: over three evaluations the slope of the reward is above zero with its whole 95 % interval, and the "
            "monitor's paired change from its best is below minus two standard errors at each of them.",
        ],
        facts=_facts(run, roles),
    )


def _lead(run: Run) -> str:
    done = f"{_last_step(run)} iterations in {format_seconds(run.looks[-1].get('seconds', 0))}"
    ended = "" if run.result else " The final measure is not there yet."
    return f"{done}.{ended}"


def _last_step(run: Run) -> int:
    return max(entry["step"] for entry in [*run.iterations, *run.looks])


def _notice(run: Run) -> Notice:
    hiding = [str(entry["unscored"]["alarm"]) for entry in run.iterations if entry.get("unscored", {}).get("alarm")]
    if run.alarms:
        first, last = run.alarms[0], run.alarms[-1]
        still = last.step == run.looks[-1]["step"]
        since = f"It went off at {len(run.alarms)} of {len(run.looks)} evaluations"
        end = "and was on at the end." if still else f"the last time at iteration {last.step}."
        return Notice(
            "The reward was probably gamed", " ".join([_sentence(first.text), f"{since}, {end}", *hiding]), "bad"
        )
    if hiding:
        return Notice("The policy may be hiding from the reward", hiding[-1], "bad")
    if run.verdict.kind == "unknown":
        return Notice("Cannot tell whether the reward was gamed", _sentence(run.verdict.why))
    checked = sum(verdict.kind == "healthy" for verdict in run.verdicts)
    text = f"At none of {checked} evaluations that can tell did the monitor fall for sure while the reward rose."
    unsure = sum(verdict.kind == "unknown" for verdict in run.verdicts)
    more = f" {unsure} of {len(run.verdicts)} cannot tell." if unsure else ""
    return Notice("No sign of a gamed reward", text + more, "good")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


# ---- numbers


def _numbers(run: Run, roles: Mapping[str, Any]) -> list[Number]:
    rewards = [entry["reward"] for entry in run.iterations if entry["reward"] is not None]
    edge = max(1, min(_EDGE, len(rewards) // 2))
    found = []
    if rewards:
        note = f"mean of {edge} iterations at the start and at the end"
        found.append(
            Number(_name(roles, "reward"), _mean(rewards[:edge]), _mean(rewards[-edge:]), role="reward", note=note)
        )
    change = change_from_start(run)[-1]
    note = f"{run.looks[-1].get('tasks', 'the same')} validation tasks, paired noise"
    if change:
        note += f"; change {_plus_minus(change.change, change.standard_error)}"
    before, after = run.looks[0]["overall"], run.looks[-1]["overall"]
    return [*found, Number(_name(roles, "monitor"), before, after, role="monitor", note=note)]


def _final(run: Run, roles: Mapping[str, Any]) -> list[Number]:
    final = (run.result or {}).get("final")
    if not final:
        return []
    before, after, name = final["before"], final["after"], _name(roles, "final")
    change = _plus_minus(final["change"], final["standard_error"])
    note = f"{after['tasks']} test tasks, paired noise; change {change}"
    found = [Number(name, before["overall"], after["overall"], role="final", note=note)]
    if "success" in after:
        found.insert(0, Number(f"success by {name}", before["success"], after["success"], "share", "final"))
    dims = [key for key in after if key not in ("overall", "tasks", "statuses", "success", "values") and key in before]
    return found + [Number(f"{name}: {dim.replace('_', ' ')}", before[dim], after[dim], role="final") for dim in dims]


def _plus_minus(change: float, error: float) -> str:
    return f"{change:+.3f} ± {error:.3f} (standard error)".replace("-", "−")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _name(roles: Mapping[str, Any], role: str) -> str:
    """What a role's measure is called: its spec, or the name of a combination that stands in the recipe."""
    spec = roles.get(role) or role
    return str(spec.get("name", "combination")) if isinstance(spec, Mapping) else str(spec)


# ---- curves


def _figures(run: Run) -> Iterable[Figure]:
    marks = [(run.alarms[0].step, "alarm")] if run.alarms else []

    def figure(title: str, y_label: str, curves: Iterable[Curve | None], note: str = "", zero: bool = True) -> Figure:
        shown = [curve for curve in curves if curve is not None]
        highest = max((y for curve in shown for y in [*curve.y, *(curve.behind or [])] if y is not None), default=0)
        y_range = (0.0, 1.05 * highest if highest > 0 else 1.0) if zero else None
        return Figure(title, shown, "iteration", y_label, note, y_range, marks)

    def of(key: str, label: str) -> Curve | None:
        return _running(label, *column(run.iterations, key))

    yield figure("Reward: trained on", "mean of an iteration's edits", [of("reward", "reward")], zero=False)
    yield figure(
        "Monitor: watched, never trained on",
        "mean of the validation tasks",
        [_monitor(run)],
        "Band: two standard errors of the paired change from the start.",
        zero=False,
    )
    steps, nats = column(run.looks, "kl_nats")
    yield figure(
        "Distance from the start",
        "KL, nats a sample",
        [Curve("KL to the starting weights", steps, nats)] if steps else [],
        "What the reward was bought with: of two runs with the same monitor the nearer one is better.",
    )
    yield figure("Clipped ratios", "share of samples and steps", [of("clip_fraction", "clip fraction")])
    yield figure(
        "Diversity inside groups",
        "RMS pixel difference",
        [of("diversity", "between edits of one group")],
        "Towards zero all edits of a task become one.",
    )
    yield figure(
        "How much of the image changes",
        "share",
        [of("changed_area", "changed area"), of("untouched", "untouched copies")],
        "Pixels that differ visibly from the source; edits that are copies of it.",
    )
    yield figure(
        "Disagreement of the rewards",
        "1 − Kendall's tau",
        [of("disagreement", "between members of the combination")],
        "Ranks inside groups: 0 alike, 1 unrelated, 2 opposite.",
    )
    yield figure(
        "Edits without a score",
        "share",
        [_failed(run, "of any kind", FAILURES), _failed(run, "refused or not parsed", HIDING)],
    )


def _failed(run: Run, label: str, statuses: Sequence[str]) -> Curve | None:
    """Share of an iteration's edits with one of `statuses`."""
    lines = [entry for entry in run.iterations if entry.get("statuses")]
    counts = [entry["statuses"] for entry in lines]
    shares = [sum(count.get(status, 0) for status in statuses) / sum(count.values()) for count in counts]
    return _running(label, [entry["step"] for entry in lines], shares)


def _monitor(run: Run) -> Curve:
    steps, means = column(run.looks, "overall")
    changes = change_from_start(run)
    spread = [2 * change.standard_error if change else float("nan") for change in changes]
    return Curve("monitor", steps, means, spread if any(changes) else None)


def _running(label: str, steps: Sequence[int], values: Sequence[float | None]) -> Curve | None:
    """The values behind their running mean, over about a twelfth of them; None without any."""
    table = np.array([np.nan if value is None else value for value in values], np.float64)
    if not np.isfinite(table).any():
        return None
    reach = len(table) // 24
    windows = [table[max(0, i - reach) : i + reach + 1] for i in range(len(table))]
    means = [float(np.nanmean(window)) if np.isfinite(window).any() else None for window in windows]
    return Curve(label, list(steps), means, behind=values if reach else None)


# ---- the rest


def _sheets(grids: Sequence[Path]) -> list[Sheet]:
    last = len(grids) - 1
    places = sorted({round(last * part / (_GRIDS - 1)) for part in range(_GRIDS)}) if grids else []
    found = []
    for place in places:
        with Image.open(grids[place]) as image:
            kind, _, number = grids[place].stem.partition("-")
            found.append(Sheet(f"{kind} {number.lstrip('0')}", image.convert("RGB")))
    return found


def _tables(run: Run) -> list[Table]:
    timings = [entry["timing"] for entry in run.iterations if entry.get("timing")]
    if not timings:
        return []
    names = list(dict.fromkeys(name for timing in timings for name in timing))
    median = {name: float(np.median([timing.get(name, 0.0) for timing in timings])) for name in names}
    total = sum(median.values()) or 1.0
    rows: list[list[str | float | int | None]] = [
        [name, round(seconds, 3), f"{seconds / total:.0%}"] for name, seconds in median.items()
    ]
    return [Table("Time of an iteration", ["part", "seconds, median", "share"], rows)]


def _facts(run: Run, roles: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = run.recipe
    rollout, loop = recipe.get("rollout") or {}, recipe.get("loop") or {}
    found = [
        ("editor", recipe.get("editor")),
        ("algorithm", (recipe.get("algorithm") or {}).get("name")),
        *[(role, _spelled(spec)) for role, spec in roles.items() if spec and role != "by"],
        ("edits an iteration", _product(rollout.get("groups"), rollout.get("members"))),
        ("learning rate", loop.get("lr")),
        ("seed", loop.get("seed")),
        ("rows left out", _left_out(run.unreadable)),
    ]
    return [(name, str(value)) for name, value in found if value is not None]


def _left_out(unreadable: Mapping[str, str]) -> str | None:
    """How many rows could not be read, and which."""
    if not unreadable:
        return None
    shown = "; ".join(f"{row}: {why}" for row, why in list(unreadable.items())[:_ROWS])
    return f"{len(unreadable)}: {shown}" + (" …" if len(unreadable) > _ROWS else "")


def _spelled(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        return str(spec)
    members = spec.get("members") or {}
    return f"{spec.get('name', 'combination')} of {', '.join(map(str, members))}"


def _product(groups: Any, members: Any) -> str | None:
    return f"{groups} tasks × {members}" if groups and members else None
