"""What reward training gains, beside what it must beat: success and mean oracle overall on test scenes, paired noise.

    python tests/speed/grpo_gain.py --out runs/gain --minutes 15 --seeds 0 1 2

Rows: GRPO on the recommended reward, on the oracle (upper bound), and plain continued fine-tuning for the same time;
with `--clean FOLDER` also GRPO from an editor that was trained on clean triplets. Every run is one `mmreward train`;
what is finished is kept, and the same command goes on where it was stopped. Writes `results.json` and prints the
README table. The test scenes are looked at once per run, here; tuning uses validation scenes (`--split validation`).
"""

__all__ = ["main"]

import argparse
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from editing.data import TaskConfig, load_tasks
from editing.editors import load_editor
from editing.evaluation import Evaluation, compare, evaluate
from mmreward import load_reward
from mmreward.training.checkpoint import latest_checkpoint

KINDS = ("recolour", "remove", "add", "move", "background")
STEPS = 8


@dataclass(frozen=True)
class Row:
    """One line of the table: a recipe from a starting editor."""

    name: str
    recipe: str
    start: str = "tiny"
    changes: tuple[str, ...] = ()


def rows(clean: str | None) -> list[Row]:
    found = [
        Row("GRPO, recommended reward", "grpo-tiny", changes=("roles.final=null",)),
        Row("GRPO, oracle as reward (upper bound)", "grpo-tiny-oracle"),
        Row("continued fine-tuning", "continue-tiny"),
    ]
    if clean:
        changes = (f"editor={clean}", "roles.final=null")
        found.append(Row("GRPO, recommended reward, clean start", "grpo-tiny", clean, changes))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--only", nargs="*", help="recipes to run (default: all)")
    parser.add_argument("--clean", help="folder of an editor trained on clean triplets")
    options = parser.parse_args()
    chosen = [row for row in rows(options.clean) if not options.only or row.recipe in options.only]
    for seed in options.seeds:
        for row in chosen:
            measure(row, seed, options)
            write(options, rows(options.clean))


def measure(row: Row, seed: int, options: argparse.Namespace) -> None:
    """Train and evaluate one (row, seed), unless its result is there."""
    folder = options.out / f"{slug(row.name)}-seed{seed}"
    result = folder / f"{options.split}.json"
    if result.is_file():
        return
    if not (folder / "model" / "model_index.json").is_file():
        command = [sys.executable, "-m", "app.cli", "train", row.recipe, "--out", str(folder)]
        command += ["--minutes", f"{options.minutes:g}"]
        for change in (*row.changes, f"loop.seed={seed}", *seeded(row.recipe, seed)):
            command += ["--set", change]
        if latest_checkpoint(folder) is not None:
            command.append("--resume")
        print(f"{row.name}, seed {seed}", flush=True)
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    before, after = evaluation(row.start, options), evaluation(str(folder / "model"), options)
    found = {"before": before.summary(), "after": after.summary(), **compare(before, after)}
    result.write_text(json.dumps({"row": row.name, "recipe": row.recipe, "seed": seed, **found}, indent=2) + "\n")


def seeded(recipe: str, seed: int) -> tuple[str, ...]:
    """The setting that gives each seed its own tasks."""
    return (f"data.seed={seed + 1}",) if recipe.startswith("grpo") else (f"seed={seed + 100}",)


_EVALUATED: dict[str, Evaluation] = {}


def evaluation(editor: str, options: argparse.Namespace) -> Evaluation:
    """The oracle's view of an editor: the same tasks and starting noise every time."""
    if editor not in _EVALUATED or editor not in ("tiny", options.clean):
        tasks = load_tasks(TaskConfig(split=options.split, kinds=KINDS))
        chosen = [tasks.task(index) for index in range(options.tasks)]
        oracle = load_reward("oracle")
        context = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
        _EVALUATED[editor] = evaluate(load_editor(editor), chosen, oracle, STEPS, batch=128, context=context)
    return _EVALUATED[editor]


def write(options: argparse.Namespace, table: list[Row]) -> None:
    """All results so far as one JSON file and as the table."""
    found = []
    lines = ["| | success before | after | gain in points | mean overall before | after | gain |", "|" + "---|" * 7]
    for row in table:
        paths = sorted(options.out.glob(f"{slug(row.name)}-seed*/{options.split}.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        if not runs:
            continue
        gains = [100 * (run["after"]["success"] - run["before"]["success"]) for run in runs]
        changes = [run["after"]["overall"] - run["before"]["overall"] for run in runs]
        first = runs[0]["before"]
        after = mean([run["after"]["success"] for run in runs])
        overall = mean([run["after"]["overall"] for run in runs])
        lines.append(
            f"| {row.name} | {first['success']:.1%} | {after:.1%} | {spread(gains, '+.1f')} "
            f"| {first['overall']:.3f} | {overall:.3f} | {spread(changes, '+.3f')} |"
        )
        found.append({"row": row.name, "recipe": row.recipe, "runs": runs})
    settings = {"minutes": options.minutes, "tasks": options.tasks, "split": options.split, "steps": STEPS}
    (options.out / "results.json").write_text(json.dumps({**settings, "rows": found}, indent=2) + "\n")
    print("\n".join(lines), flush=True)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: list[float], style: str) -> str:
    """Mean and range over the seeds."""
    if len(values) == 1:
        return format(values[0], style)
    return f"{format(mean(values), style)} ({format(min(values), style)} to {format(max(values), style)})"


def slug(name: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


if __name__ == "__main__":
    main()
