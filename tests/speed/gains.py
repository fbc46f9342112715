"""What reward training gains, beside what it must beat: success and mean oracle overall on test scenes, paired noise.

    python tests/speed/gains.py main --out runs/gains                  # GRPO for 15 minutes, 3 seeds
    python tests/speed/gains.py algorithms --out runs/gains            # all algorithms for 6 minutes, and the baselines
    python tests/speed/gains.py algorithms --out runs/gains --only nft --split validation --seeds 7     # to tune

Every run is one `mmreward train`; what is finished is kept, and the same command goes on where it was stopped. Seeds
can be dealt to several processes that write to the same folder. Writes `TABLE-SPLIT.json` and prints the table: means
over seeds with their range, edits scored, passes of the editor (a forward pass of one edit counts 1, a backward pass
2), and for each row how far it lies above the best baseline that trains, and above the one that searches, in standard
errors of the tasks' differences.
The test scenes are looked at once per run, here; tuning uses validation scenes and other seeds.
"""

__all__ = ["main"]

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from editing.data import Task, TaskConfig, load_tasks
from editing.editors import load_editor
from editing.editors.editor import Editor
from editing.evaluation import Evaluation, evaluate, sample
from editing.precision import Precision
from mmreward import load_reward
from mmreward.training.checkpoint import latest_checkpoint

KINDS = ("recolour", "remove", "add", "move", "background")
STEPS = 8
CANDIDATES = 8
CLEAN = "CLEAN"
"""Stands for the folder of an editor trained on clean triplets."""
TRIPLETS = 8192
"""Scored ones for the methods that learn from triplets: about as many as the others score edits in 6 minutes."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a recipe from a starting editor. No recipe: the best of `candidates` edits of the start.

    `start` is an editor, CLEAN, or the name of another row: what that one made with the same seed. `asked`: options of
    the editor.
    """

    name: str
    recipe: str | None
    changes: tuple[str, ...] = ()
    start: str = "tiny"
    asked: str = ""
    candidates: int = CANDIDATES
    baseline: bool = False


_NO_FINAL = ("roles.final=null",)
_CONDITIONED = "reward-conditioned fine-tuning"
_SCORED = (f"data.triplets={TRIPLETS}", "checked=64")
TABLES: dict[str, tuple[float, tuple[Row, ...]]] = {
    "main": (
        15.0,
        (
            Row("GRPO, recommended reward", "grpo-tiny", _NO_FINAL),
            Row("GRPO, oracle as reward (upper bound)", "grpo-tiny-oracle"),
            Row("continued fine-tuning", "continue-tiny", baseline=True),
            Row("GRPO from a clean start", "grpo-tiny", _NO_FINAL, start=CLEAN),
            Row("NFT, recommended reward", "nft-tiny", _NO_FINAL),
        ),
    ),
    "algorithms": (
        6.0,
        (
            Row("GRPO", "grpo-tiny", _NO_FINAL),
            Row("NFT", "nft-tiny", _NO_FINAL),
            Row("RAFT", "raft-tiny", _NO_FINAL),
            Row("Pref-GRPO", "pref-grpo-tiny", _NO_FINAL),
            Row(_CONDITIONED, "conditioned-tiny", _SCORED),
            Row("continued fine-tuning", "continue-tiny", baseline=True),
            Row("fine-tuning on the best 30 % of scored triplets", "top-scored-tiny", _SCORED, baseline=True),
            Row(f"best of {CANDIDATES} of the start", None, baseline=True),
            Row("fine-tuning on clean triplets (ceiling)", "continue-tiny", ("flawed=0",)),
            Row("NFT from a clean start", "nft-tiny", _NO_FINAL, start=CLEAN),
            Row(f"best of {2 * CANDIDATES} of the start", None, candidates=2 * CANDIDATES),
            Row(f"NFT, then best of {CANDIDATES}", None, start="NFT"),
            # less guided than for a single edit: its edits differ more (validation)
            Row(f"reward-conditioned, best of {CANDIDATES}", None, start=_CONDITIONED, asked="?score_guidance=2"),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="of training, each run (default: the table's)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tasks", type=int, default=512)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument(
        "--only", nargs="*", default=[], help="rows with one of these names, or else that contain it, any case"
    )
    parser.add_argument("--clean", type=Path, help="folder of an editor trained on clean triplets: a clean start")
    options = parser.parse_args()
    minutes, rows = TABLES[options.table]
    options.minutes = options.minutes or minutes
    rows = tuple(row for row in rows if row.start != CLEAN or options.clean)
    chosen = [row for row in rows if any(row in called(word, rows) for word in options.only or [""])]
    for seed in options.seeds:
        for row in chosen:
            measure(row, seed, rows, options)
            write(rows, options)


def called(word: str, rows: Sequence[Row]) -> list[Row]:
    """The row of this name, or else those whose name contains the word."""
    exact = [row for row in rows if row.name.lower() == word.lower()]
    return exact or [row for row in rows if word.lower() in row.name.lower()]


# ---- one run


def measure(row: Row, seed: int, rows: Sequence[Row], options: argparse.Namespace) -> None:
    """Train and evaluate one (row, seed), unless its result is there."""
    folder = place(row, seed, options)
    file = folder / f"{options.split}.json"
    if file.is_file():
        return
    print(f"{row.name}, seed {seed}", flush=True)
    before = start = str(options.clean) if row.start == CLEAN else row.start
    for other in rows:
        if other.name == row.start:
            before, start = other.start, str(place(other, seed, options) / "model")
    if row.recipe:
        if not (folder / "model" / "model_index.json").is_file():
            train(row, start, seed, folder, options)
        after = evaluation(str(folder / "model"), options)
        found = {"cost": cost(folder), "minutes": options.minutes}
    else:
        folder.mkdir(parents=True, exist_ok=True)
        editor = load_editor(start + row.asked)
        after = best_of(editor, row.candidates, seed, options)
        passes = 1 if getattr(editor, "score_guidance", 1) == 1 else 2
        edits = row.candidates * options.tasks
        found = {"cost": {"scored": edits, "passes": passes * STEPS * edits}}
    found |= {"row": row.name, "recipe": row.recipe, "seed": seed}
    file.write_text(json.dumps({**found, "before": told(evaluation(before, options)), "after": told(after)}) + "\n")


def place(row: Row, seed: int, options: argparse.Namespace) -> Path:
    words = "".join(c if c.isalnum() else " " for c in row.name.lower()).split()
    folder: Path = options.out / f"{options.minutes:g}-minutes" / f"{'-'.join(words)}-seed{seed}"
    return folder


def train(row: Row, start: str, seed: int, folder: Path, options: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "mmreward", "train", str(row.recipe), "--out", str(folder)]
    command += ["--minutes", f"{options.minutes:g}"]
    changes = [*row.changes, f"loop.seed={seed}"]
    # each seed has tasks or triplets of its own; scored triplets are the same for all, as a data set would be
    match str(row.recipe).split("-")[0]:
        case "continue":
            changes += [f"start={start}", f"seed={seed + 100}"]
        case "conditioned" | "top":
            changes += [f"editor={start}", f"seed={seed}", f"cache={options.out / 'triplets.safetensors'}"]
        case _:
            changes += [f"editor={start}", f"data.seed={seed + 1}"]
    for change in changes:
        command += ["--set", change]
    if latest_checkpoint(folder) is not None:
        command.append("--resume")
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})


def cost(folder: Path) -> dict[str, int]:
    """What the run in `folder` used: steps, edits (or triplets) scored, passes of the editor."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    steps = max(entry["step"] for entry in entries if "step" in entry)
    if "rollout" not in recipe:
        scored = recipe["data"]["triplets"] if "data" in recipe else 0
        return {"steps": steps, "scored": scored, "passes": 3 * steps * recipe["batch"]}
    rollout, algorithm, anchor = recipe["rollout"], recipe["algorithm"], recipe.get("anchor")
    examples = algorithm.get("levels", rollout["window"])
    passes = rollout["steps"] + examples * (3 + ("old" in algorithm))
    if anchor:
        passes += (3 + 1) / anchor.get("every", 4)
    samples = steps * rollout["groups"] * rollout["members"]
    return {"steps": steps, "scored": samples, "passes": round(samples * passes)}


# ---- what the oracle says

_EVALUATED: dict[str, Evaluation] = {}


def evaluation(editor: str, options: argparse.Namespace) -> Evaluation:
    """The oracle's view of an editor: the same tasks and starting noise every time."""
    if editor not in _EVALUATED:
        _EVALUATED[editor] = evaluate(load_editor(editor), tasks(options), load_reward("oracle"), STEPS, **how())
    return _EVALUATED[editor]


def best_of(editor: Editor, candidates: int, seed: int, options: argparse.Namespace) -> Evaluation:
    """Of each task's edits the one that the recommended reward likes best."""
    asked, reward = tasks(options), load_reward("recommended")
    rounds = [round_of(editor, asked, f"best-of/{seed}/{number}") for number in range(candidates)]
    chosen = []
    for task, images in zip(asked, zip(*rounds, strict=True), strict=True):
        scores = [score.overall if score.ok else -math.inf for score in reward.score([task.edit(i) for i in images])]
        chosen.append(images[scores.index(max(scores))])
    edits = [task.edit(image, with_target=True) for task, image in zip(asked, chosen, strict=True)]
    return Evaluation(tuple(load_reward("oracle").score(edits)), tuple(chosen))


def round_of(editor: Editor, asked: Sequence[Task], noise: str) -> list[Any]:
    return sample(editor, asked, STEPS, noise=noise, **how())


def tasks(options: argparse.Namespace) -> list[Task]:
    found = load_tasks(TaskConfig(split=options.split, kinds=KINDS))
    return [found.task(index) for index in range(options.tasks)]


def how() -> dict[str, Any]:
    return {"batch": 128, "precision": Precision(torch.device("cpu"), "bf16")}


def told(found: Evaluation) -> dict[str, Any]:
    """With every task's numbers, for paired differences."""
    passed = [int(bool(score.raw.get("success", 0))) for score in found.scores]
    return {**found.summary(), "values": found.values, "successes": passed}


# ---- tables


def write(rows: Sequence[Row], options: argparse.Namespace) -> None:
    """All results so far as one JSON file and as the table."""
    lines = [
        "| | success | gain, points | mean overall | gain | edits scored | editor passes "
        "| above the best trained baseline | above the best search |",
        "|" + "---|" * 9,
    ]
    found = {row.name: runs for row in rows if (runs := results(row, options))}
    trained, searched = (best(rows, found, trains) for trains in (True, False))
    clean = {row.name for row in rows if row.start == CLEAN}
    for name, start in {
        ("clean start" if name in clean else "start"): r[0]["before"] for name, r in found.items()
    }.items():
        lines.append(f"| {name} | {start['success']:.1%} | | {start['overall']:.3f} | | | | | |")
    for name, runs in found.items():
        points = [100 * (run["after"]["success"] - run["before"]["success"]) for run in runs]
        gains = [run["after"]["overall"] - run["before"]["overall"] for run in runs]
        success = mean([run["after"]["success"] for run in runs])
        overall = mean([run["after"]["overall"] for run in runs])
        scored, passes = (mean([run["cost"][key] for run in runs]) for key in ("scored", "passes"))
        above = [
            in_errors(runs, found[other]) if other not in (None, name) and name not in clean else ""
            for other in (trained, searched)
        ]
        lines.append(
            f"| {name} | {success:.1%} | {spread(points, '+.1f')} | {overall:.3f} | {spread(gains, '+.3f')} "
            f"| {scored:,.0f} | {passes / 1000:,.0f} k | {above[0]} | {above[1]} |"
        )
    settings = {"minutes": options.minutes, "tasks": options.tasks, "split": options.split, "steps": STEPS}
    text = json.dumps({**settings, "rows": found}) + "\n"
    (options.out / f"{options.table}-{options.split}.json").write_text(text)
    print("\n".join(lines), flush=True)


def best(rows: Sequence[Row], found: dict[str, list[dict[str, Any]]], trains: bool) -> str | None:
    """The best measured baseline, by mean overall, of those that train or of those that search."""
    names = [row.name for row in rows if row.baseline and bool(row.recipe) == trains and row.name in found]
    return max(names, key=lambda name: mean([run["after"]["overall"] for run in found[name]]), default=None)


def results(row: Row, options: argparse.Namespace) -> list[dict[str, Any]]:
    first = place(row, 0, options)
    files = first.parent.glob(f"{first.name.removesuffix('0')}*/{options.split}.json")
    return [json.loads(file.read_text()) for file in sorted(files)]


def in_errors(runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> str:
    """By how much mean overall lies above the baseline's, and how many standard errors that is."""
    pairs = [
        (mean(ours), mean(theirs))
        for ours, theirs in zip(by_task(runs), by_task(baseline), strict=True)
        if None not in (*ours, *theirs)  # tasks that have a score in all runs
    ]
    change = torch.tensor([ours - theirs for ours, theirs in pairs])
    error = float(change.std() / math.sqrt(len(change)))
    return f"{float(change.mean()):+.3f} ({float(change.mean()) / error:+.1f} se)"


def by_task(runs: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    """Each task's `overall` in every run."""
    return list(zip(*(run["after"]["values"] for run in runs), strict=True))


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def spread(values: list[float], style: str) -> str:
    """Mean and range over the seeds."""
    if len(values) == 1:
        return format(values[0], style)
    return f"{format(mean(values), style)} ({format(min(values), style)} to {format(max(values), style)})"


if __name__ == "__main__":
    main()
