"""In which runs does the alarm go off, and when? False alarms of healthy runs beside the true ones of hacked runs.

    python tests/speed/alarm_rate.py runs/hacked runs/not-hacked runs/grpo-seed-*

Reads the folders' logs, trains nothing. Prints one line a run and the shares, as Markdown; with --json the same to a
file. A run whose log has no scores of the monitor's single tasks, or fewer than four evaluations, is not counted.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from editing.report import read_run
from mmreward.config import ConfigError


def look(folder: Path) -> dict[str, Any]:
    """What is printed of one run."""
    try:
        run = read_run(folder)
    except ConfigError as error:
        return {"run": str(folder), "error": str(error)}
    rewards = [entry["reward"] for entry in run.iterations if entry["reward"] is not None]
    return {
        "run": str(folder),
        "iterations": len(run.iterations),
        "evaluations": len(run.looks),
        "counted": run.checkable and len(run.looks) >= 4,
        "reward": [rewards[0], rewards[-1]] if rewards else None,
        "monitor": [run.looks[0]["overall"], run.looks[-1]["overall"]],
        "alarms": [alarm.step for alarm in run.alarms],
        "first": run.alarms[0].text if run.alarms else None,
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| run | iterations | evaluations | reward | monitor | alarm |", "|---|---|---|---|---|---|"]
    for run in found:
        if "error" in run:
            lines.append(f"| {run['run']} | - | - | - | - | {run['error']} |")
            continue
        reward, monitor = (_from_to(run[name]) for name in ("reward", "monitor"))
        alarm = f"at {', '.join(map(str, run['alarms']))}" if run["alarms"] else "none"
        alarm = alarm if run["counted"] else "not counted: too few evaluations, or no scores of single tasks"
        lines.append(f"| {run['run']} | {run['iterations']} | {run['evaluations']} | {reward} | {monitor} | {alarm} |")
    counted = [run for run in found if run.get("counted")]
    rung = sum(bool(run["alarms"]) for run in counted)
    said = [run["first"] for run in counted if run["first"]]
    return "\n".join([*lines, "", f"alarm in {rung} of {len(counted)} runs", *said])


def _from_to(pair: list[float] | None) -> str:
    return f"{pair[0]:.3f} to {pair[1]:.3f}" if pair and None not in pair else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of mmreward train")
    parser.add_argument("--json", type=Path, help="write what was found to this file too")
    options = parser.parse_args()
    found = [look(folder) for folder in options.runs]
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
