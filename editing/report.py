"""What a run of reward training left in its folder, read back: for the report and for whoever compares runs.

    run = read_run("runs/grpo")
    run.alarms, run.looks[-1]["overall"], change_from_start(run)

Works on a run that still goes on or was stopped: what is not there yet is empty or None.
"""

__all__ = ["Change", "Run", "change_from_start", "column", "read_run"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editing.alarm import Alarm, Verdict, check, verdicts
from mmreward.config import ConfigError, read_yaml
from mmreward.training import read_log


@dataclass(frozen=True)
class Run:
    """One output folder. `iterations` and `looks` are the log's entries of training and of the monitor."""

    folder: Path
    recipe: Mapping[str, Any]
    """The settings as used; empty where there is no recipe.yaml (a run started from Python)."""
    iterations: list[dict[str, Any]]
    looks: list[dict[str, Any]]
    result: Mapping[str, Any] | None
    """`result.json`: the final measure; None where the run has not ended, or has none."""
    grids: list[Path]
    verdicts: list[Verdict]
    """At each evaluation that kept the scores of its tasks."""
    verdict: Verdict
    """At the last one."""
    unreadable: Mapping[str, str]
    """Rows that were left out: id -> why."""
    warnings: list[str]
    """What was said at the start."""

    @property
    def alarms(self) -> list[Alarm]:
        return [verdict.alarm for verdict in self.verdicts if verdict.alarm]


def read_run(folder: str | Path) -> Run:
    """Read the folder that a run writes to; refuses one that holds no reward training."""
    folder = Path(folder)
    if not (folder / "log.jsonl").is_file():
        raise ConfigError(f"{folder}: no log.jsonl here; name the output folder of a run of reward training")
    log = read_log(folder / "log.jsonl")
    entries = [entry for entry in log if _told(entry)]
    iterations = [entry for entry in entries if entry["kind"] == "train"]
    looks = [entry for entry in entries if entry["kind"] == "monitor"]
    if not looks:
        raise ConfigError(
            f"{folder / 'log.jsonl'}: no evaluation by a monitor in it; was it written by other training?"
        )
    file, result = folder / "recipe.yaml", folder / "result.json"
    recipe = read_yaml(file) if file.is_file() else {}
    win_rates = any(entry.get("win_rates") for entry in iterations) or _OLD_WIN_RATES == _algorithm(recipe)
    return Run(
        folder,
        recipe,
        iterations,
        looks,
        json.loads(result.read_text()) if result.is_file() else None,
        sorted((folder / "grids").glob("*.png")),
        verdicts(entries, win_rates),
        check(entries, win_rates),
        {name: why for entry in log for name, why in (entry.get("unreadable") or {}).items()},
        [text for entry in log for text in entry.get("warnings") or ()],
    )


_OLD_WIN_RATES = "pref_grpo"
"""The algorithm whose older logs do not say that the reward is a win rate."""


def _algorithm(recipe: Mapping[str, Any]) -> Any:
    return (recipe.get("algorithm") or {}).get("name")


def _told(entry: Mapping[str, Any]) -> bool:
    """Whether a line of a log is one of reward training."""
    return (entry.get("kind") == "train" and "reward" in entry) or (
        entry.get("kind") == "monitor" and "overall" in entry
    )


def column(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float | None]]:
    """Steps and values of the entries that have `key`; null stays None."""
    having = [entry for entry in entries if key in entry]
    return [entry["step"] for entry in having], [entry[key] for entry in having]


@dataclass(frozen=True)
class Change:
    """Mean change of the monitor from the first evaluation, over the tasks scored both times."""

    change: float
    standard_error: float


def change_from_start(run: Run) -> list[Change | None]:
    """One for each evaluation; None where the scores of the tasks were not kept, or are not of the same tasks."""
    first = run.looks[0].get("values") or []
    return [_change(first, look.get("values") or []) for look in run.looks]


def _change(first: Sequence[float | None], now: Sequence[float | None]) -> Change | None:
    if len(first) != len(now):
        return None
    change = np.array([b - a for a, b in zip(first, now) if a is not None and b is not None])
    if len(change) < 2:
        return None
    return Change(float(change.mean()), float(change.std(ddof=1) / np.sqrt(len(change))))
