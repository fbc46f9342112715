"""Reward-conditioned fine-tuning beside fine-tuning on the top-scored part, score-weighted fine-tuning, and fine-tuning
without scores: the same triplets and judge labels, several shares of flawed targets; and does the editor obey?

    python tests/speed/conditioned.py --out runs/conditioned --minutes 6 --seeds 0 1 2 --flawed 0.2 0.5 0.8

Every run is one `mmreward train`; triplets of one share are scored and encoded once, for all methods and seeds. What is
finished is kept, and the same command goes on where it was stopped. Success and oracle scores on test scenes with
paired noise; then, on validation scenes, what comes out when one score is asked for low and the others best (without
guidance), and under more or less guidance. Writes `results.json` and prints the tables.
"""

__all__ = ["main"]

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from editing.data import TaskConfig, load_tasks
from editing.editors import load_editor
from editing.evaluation import Evaluation, compare, evaluate
from editing.fit.triplets import KINDS
from editing.precision import Precision
from mmreward import load_reward
from mmreward.score import DIMENSIONS
from mmreward.training.checkpoint import latest_checkpoint

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)
GUIDANCE = (2.0, 3.0)
STEPS = 8


@dataclass(frozen=True)
class Method:
    """One row of the table."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()


METHODS = (
    Method("conditioned on scores", "conditioned-tiny"),
    Method("top-scored 30 %", "top-scored-tiny"),
    Method("score-weighted", "weighted-tiny"),
    Method("all triplets, no scores", "top-scored-tiny", ("method.share=1.0",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=6, help="of training, each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--flawed", type=float, nargs="+", default=[0.2, 0.5, 0.8], help="shares of flawed targets")
    parser.add_argument("--triplets", type=int, default=20_000)
    parser.add_argument("--reward", default="vlm:tiny", help="whose scores the triplets get")
    parser.add_argument("--tasks", type=int, default=512, help="test scenes")
    parser.add_argument("--asked", type=int, default=256, help="validation scenes for each requested score")
    parser.add_argument("--only", nargs="*", help="recipes to run (default: all)")
    options = parser.parse_args()
    chosen = [method for method in METHODS if not options.only or method.recipe in options.only]
    for seed in options.seeds:
        for flawed in options.flawed:
            for method in chosen:
                run(method, flawed, seed, options)
                write(options)


def run(method: Method, flawed: float, seed: int, options: argparse.Namespace) -> None:
    """Train and measure one method, share and seed, unless its result is there."""
    folder = place(method, flawed, seed, options)
    print(f"{method.name}, {flawed:.0%} flawed, seed {seed}", flush=True)
    if not (folder / "model" / "model_index.json").is_file():
        train(method, flawed, seed, folder, options)
    model = str(folder / "model")
    kept(folder / "test.json", lambda: tested(model, options))
    if method.recipe == "conditioned-tiny":
        kept(folder / "asked.json", lambda: asked(model, options))


def place(method: Method, flawed: float, seed: int, options: argparse.Namespace) -> Path:
    words = "".join(character if character.isalnum() else " " for character in method.name).split()
    return options.out / f"flawed-{flawed:g}" / f"{'-'.join(words)}-seed{seed}"


def train(method: Method, flawed: float, seed: int, folder: Path, options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "mmreward", "train", method.recipe, "--out", str(folder)]
    command += ["--minutes", f"{options.minutes:g}"]
    changes = (
        *method.changes,
        f"data.flawed={flawed}",
        f"data.triplets={options.triplets}",
        f"data.reward={options.reward}",
        f"cache={options.out / f'flawed-{flawed:g}' / 'triplets.safetensors'}",
        f"seed={seed}",
        f"loop.seed={seed}",
        "checked=64",
    )
    for change in changes:
        command += ["--set", change]
    if latest_checkpoint(folder) is not None:
        command.append("--resume")
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(root)})


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> None:
    """What `make` finds, in `file`, unless it is there already."""
    if not file.is_file():
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(make(), indent=2) + "\n")
        partial.rename(file)


_START: dict[str, Evaluation] = {}


def tested(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """The oracle's view of a trained editor, asked for the best scores, on test scenes; and of the start."""
    if "tiny" not in _START:
        _START["tiny"] = evaluation("tiny", "test", options.tasks)
    after = evaluation(model, "test", options.tasks)
    return {"before": _START["tiny"].summary(), "after": after.summary(), **compare(_START["tiny"], after)}


def asked(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the oracle finds when other scores are asked for, on validation scenes."""

    def found(wish: str) -> dict[str, Any]:
        return evaluation(f"{model}?{wish}", "validation", options.asked).summary()

    each = {
        name: {f"{level:g}": found(f"score_guidance=1&asked={name}:{level}") for level in LEVELS} for name in DIMENSIONS
    }
    best = found("score_guidance=1")
    guided = {f"{guidance:g}": found(f"score_guidance={guidance}") for guidance in GUIDANCE}
    return {"each": {name: {**levels, "1": best} for name, levels in each.items()}, "guidance": {"1": best, **guided}}


def evaluation(editor: str, split: Literal["test", "validation"], count: int) -> Evaluation:
    tasks = load_tasks(TaskConfig(split=split, kinds=KINDS))
    chosen = [tasks.task(index) for index in range(count)]
    precision = Precision(torch.device("cpu"), "bf16")
    return evaluate(load_editor(editor), chosen, load_reward("oracle"), STEPS, batch=128, precision=precision)


def write(options: argparse.Namespace) -> None:
    """All results so far as one JSON file and as tables."""
    runs = [
        {"method": method.name, "flawed": flawed, "seed": seed, "folder": place(method, flawed, seed, options)}
        for flawed in options.flawed
        for method in METHODS
        for seed in options.seeds
    ]
    for one in runs:
        for name in ("test", "asked"):
            file = one["folder"] / f"{name}.json"
            one[name] = json.loads(file.read_text()) if file.is_file() else None
        one["folder"] = str(one["folder"])
    runs = [one for one in runs if one["test"]]
    settings = {name: getattr(options, name) for name in ("minutes", "triplets", "reward", "tasks", "asked")}
    (options.out / "results.json").write_text(json.dumps({**settings, "steps": STEPS, "runs": runs}, indent=2) + "\n")
    print("\n".join([*compared(runs, options.flawed), "", *obeyed(runs, options.flawed)]), flush=True)


def compared(runs: list[dict[str, Any]], shares: Iterable[float]) -> list[str]:
    """Methods by shares of flawed targets: success and mean oracle overall on test scenes."""
    shares = list(shares)
    lines = ["| " + " | ".join(["", *(f"{share:.0%} flawed" for share in shares)]) + " |"]
    lines.append("|" + "---|" * (len(shares) + 1))
    if runs:
        before = runs[0]["test"]["before"]
        lines.append(f"| start | {cell([before])} " + "| " * (len(shares) - 1) + "|")
    for method in METHODS:
        cells = [
            cell([one["test"]["after"] for one in runs if one["method"] == method.name and one["flawed"] == share])
            for share in shares
        ]
        lines.append(f"| {' | '.join([method.name, *cells])} |")
    return lines


def obeyed(runs: list[dict[str, Any]], shares: Iterable[float]) -> list[str]:
    """What comes out for what is asked for: validation scenes, mean over the seeds."""
    lines = ["| flawed | asked for | success | overall | following | preservation | quality |", "|" + "---|" * 7]
    for share in shares:
        tables = [one["asked"] for one in runs if one["asked"] and one["flawed"] == share]
        if not tables:
            continue
        wishes = [
            ([table["each"][name][f"{level:g}"] for table in tables], f"{name.replace('_', ' ')} {level:g}")
            for name in DIMENSIONS
            for level in LEVELS
        ]
        for guidance in (1, *GUIDANCE):
            wishes.append(
                ([table["guidance"][f"{guidance:g}"] for table in tables], f"the best, guidance {guidance:g}")
            )
        for found, text in wishes:
            numbers = [mean([one.get(name, math.nan) for one in found]) for name in ("overall", *DIMENSIONS)]
            success = mean([one["success"] for one in found])
            lines.append(f"| {share:.0%} | {text} | {success:.1%} | {' | '.join(f'{n:.3f}' for n in numbers)} |")
    return lines


def cell(found: list[dict[str, Any]]) -> str:
    """Success, its range over the seeds, and mean overall."""
    if not found:
        return "–"
    success = [one["success"] for one in found]
    text = f"{mean(success):.1%}"
    if len(success) > 1:
        text += f" ({min(success):.1%} to {max(success):.1%})"
    return f"{text}, {mean([one['overall'] for one in found]):.3f}"


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


if __name__ == "__main__":
    main()
