"""Judge against oracle, on fresh candidate edits of the test split: the tables of the README.

    python tests/speed/judge_agreement.py
    python tests/speed/judge_agreement.py --groups 100 --rewards vlm:tiny pixels
    python tests/speed/judge_agreement.py --outputs before/ after/       # edits that `mmreward edit` wrote

Pairs are candidates of one group whose true overall differs by at least 0.1; hard pairs lie at similar pixel distance
from the source and hold no untouched copy. "minus L1" scores an edit by minus its mean absolute difference to the
source, "recommended" is the combination that the recipes train on. "First": share of groups whose true target has the
highest score.

"vlm:tiny?way=pairwise" scores an edit by its wins over the others of its group; the table "Comparisons" asks for pairs
directly.

Spearman is over all candidates of all groups, of scores in steps of 0.05 (half the difference that makes a pair). Two
labels in three are exactly 1, and an exact judge that says 0.993 for one perfect edit and 0.997 for another would be
marked down for the order of ties: raw scores without ties cannot pass std(ranks of the labels) / std(1..n). The table
"Spearman and ties" shows that bound beside other roundings and the raw value.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import rankdata

from mmreward import Edit, load_reward
from mmreward.fit.judge_check import hard_pairs, order, spearman
from mmreward.fit.judge_extra import read_outputs
from mmreward.shapes import World
from mmreward.shapes.flaws import KEPT_OUT_FLAWS
from mmreward.shapes.oracle import overall
from mmreward.shapes.world import KEPT_OUT_KINDS, Candidate, Task

DIMS = ("instruction_following", "preservation", "quality")
NAMES = ("following", "preservation", "quality", "overall")
REWARDS = (
    "vlm:tiny",
    "vlm:tiny?way=checklist",
    "vlm:tiny?way=pairwise",
    "recommended",
    "clip:tiny",
    "pixels",
    "minus L1",
)


@dataclass(frozen=True)
class Group:
    """Candidates of one source with labels [K, 4] (following, preservation, quality, overall); flaws by name."""

    kind: str
    instruction: str
    source: np.ndarray
    images: Sequence[np.ndarray]
    labels: np.ndarray
    flaws: Sequence[str]
    captions: tuple[str, str] | None = None

    @property
    def hard(self) -> np.ndarray:
        return hard_pairs(self.source, self.images)

    def edits(self) -> list[Edit]:
        source = Image.fromarray(self.source)
        before, after = self.captions or (None, None)
        return [
            Edit(self.instruction, source, Image.fromarray(image), source_caption=before, target_caption=after)
            for image in self.images
        ]


def group_of(task: Task, candidates: Sequence[Candidate]) -> Group:
    truths = [c.truth for c in candidates]
    labels = np.asarray([(t.following, t.preservation, t.quality, t.overall) for t in truths])
    return Group(
        task.kind,
        task.instruction,
        task.source_image,
        [c.image for c in candidates],
        labels,
        [c.flaw for c in candidates],
        (task.source_caption, task.target_caption),
    )


def world_groups(world: World, count: int) -> list[Group]:
    return [group_of(task, world.candidates(task, 8)) for task in world.tasks(count)]


def output_groups(place: Path) -> list[Group]:
    return [
        Group(
            "outputs",
            g.instruction,
            g.source_image,
            g.images,
            np.asarray([(*row, overall(*row)) for row in g.labels]),
            [""] * len(g.images),
        )
        for g in read_outputs(place).groups
    ]


@dataclass(frozen=True)
class Scored:
    """Scores [K, 4] of each group (NaN where a reward measures nothing or failed), and how long they took."""

    scores: Sequence[np.ndarray]
    seconds: float
    failed: int

    @property
    def overall(self) -> list[np.ndarray]:
        return [score[:, 3] for score in self.scores]


def score(spec: str, groups: Sequence[Group]) -> Scored:
    if spec == "minus L1":
        distances = [[-np.abs(i.astype(np.float32) - g.source).mean() for i in g.images] for g in groups]
        return Scored([np.column_stack([np.full((len(d), 3), np.nan), d]) for d in distances], 0.0, 0)
    reward = load_reward(spec)
    reward.score(groups[0].edits())  # warm up
    scores, failed = [], 0
    start = time.perf_counter()
    for first in range(0, len(groups), 32):
        chunk = groups[first : first + 32]
        found = iter(reward.score([edit for group in chunk for edit in group.edits()]))
        for group in chunk:
            own = [next(found) for _ in group.images]
            failed += sum(not one.ok for one in own)
            scores.append(np.asarray([[*(one.dims.get(d, np.nan) for d in DIMS), one.overall] for one in own]))
    return Scored(scores, time.perf_counter() - start, failed)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n### {title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in row) + " |")


def agreement(groups: Sequence[Group], scored: Scored, has_target: bool = True) -> dict[str, float | int]:
    labels = [group.labels for group in groups]
    flat, truth = np.concatenate(scored.scores), np.concatenate(labels)
    numbers: dict[str, float | int] = {}
    for i, name in enumerate(NAMES):
        good = np.isfinite(flat[:, i])
        numbers[name] = spearman(steps(flat[good, i], 0.05), truth[good, i]) if good.any() else float("nan")
    wanted = [label[:, 3] for label in labels]
    every, hard = order(scored.overall, wanted), order(scored.overall, wanted, [group.hard for group in groups])
    numbers |= {"pairs": every.right, "hard pairs": hard.right, "n": every.count, "n hard": hard.count}
    if has_target:
        first = [group.flaws[int(np.argmax(s))] == "none" for group, s in zip(groups, scored.overall, strict=True)]
        numbers["first"] = float(np.mean(first))
    numbers["failed"] = scored.failed
    return numbers


def steps(scores: np.ndarray, size: float) -> np.ndarray:
    return np.round(scores / size) * size


def comparisons(spec: str, groups: Sequence[Group]) -> None:
    """Pairs whose true overall differs by 0.1 or more, put to the judge in both orders."""
    reward = load_reward(spec)
    asked, hard = [], []
    for group in groups:
        edits, truth, is_hard = group.edits(), group.labels[:, 3], group.hard
        for i, j in combinations(range(len(edits)), 2):
            if abs(truth[i] - truth[j]) >= 0.1:
                asked.append((edits[i], edits[j]) if truth[i] > truth[j] else (edits[j], edits[i]))
                hard.append(bool(is_hard[i, j]))
    found = reward.compare(asked)
    right = np.asarray([one.share > 0.5 if one.ok else np.nan for one in found], dtype=float)
    row = [
        spec,
        len(asked),
        float(np.nanmean(right)),
        float(np.nanmean(right[np.asarray(hard)])) if any(hard) else "",
        float(np.mean([bool(one.consistent) for one in found if one.ok])),
        float(np.mean([one.verdict == "tie" for one in found if one.ok])),
        sum(not one.ok for one in found),
    ]
    head = ["reward", "pairs", "right", "hard ones right", "same winner in both orders", "called a tie", "failed"]
    table("Comparisons", head, [row])


def ties(groups: Sequence[Group], scored: Scored) -> None:
    """Spearman of rounded and of raw scores, and what raw scores without ties can reach on labels with ties."""
    flat, truth = np.concatenate(scored.scores), np.concatenate([g.labels for g in groups])
    rows = []
    for i, name in enumerate(NAMES):
        by_step = [spearman(steps(flat[:, i], size), truth[:, i]) for size in (0.1, 0.05, 0.02, 0.01)]
        ranks = rankdata(truth[:, i])
        bound = float(ranks.std() / np.arange(len(ranks)).std())
        rows.append([name, *by_step, spearman(flat[:, i], truth[:, i]), bound])
    head = ["", "steps of 0.1", "0.05", "0.02", "0.01", "raw", "best that raw scores without ties can reach"]
    table("Spearman and ties", head, rows)


def flaw_table(groups: Sequence[Group], scored: Scored) -> None:
    """Per flaw: what the oracle and the judge say on average, and how often it is put above the true target."""
    rows = []
    flaws = list(dict.fromkeys(flaw for group in groups for flaw in group.flaws))
    for flaw in sorted(flaws, key=lambda f: (f != "none", f in KEPT_OUT_FLAWS, f)):
        labels, scores, above = [], [], []
        for group, found in zip(groups, scored.scores, strict=True):
            for i, name in enumerate(group.flaws):
                if name == flaw:
                    labels.append(group.labels[i])
                    scores.append(found[i])
                    if flaw != "none" and group.labels[i, 3] <= group.labels[0, 3] - 0.1:
                        above.append(found[i, 3] >= found[0, 3])
        truth, judged = np.mean(labels, axis=0), np.nanmean(scores, axis=0)
        name = f"{flaw} (kept out)" if flaw in KEPT_OUT_FLAWS else flaw
        both = [f"{t:.2f} / {j:.2f}" for t, j in zip(truth, judged, strict=True)]
        rows.append([name, len(labels), *both, f"{np.mean(above):.1%}" if above else ""])
    head = ["flaw", "edits", *(f"{name}: oracle / judge" for name in NAMES), "put above the true target"]
    table("What the judge says about each flaw", head, rows)


def reliability(groups: Sequence[Group], scored: Scored) -> None:
    flat, truth = np.concatenate(scored.scores), np.concatenate([g.labels for g in groups])
    rows, gaps = [], np.zeros(4)
    for low in np.arange(0, 1, 0.2):
        row: list[object] = [f"{low:.1f} - {low + 0.2:.1f}"]
        for i in range(4):
            inside = (flat[:, i] >= low) & ((flat[:, i] < low + 0.2) | (low > 0.79))
            if inside.any():
                said, true = flat[inside, i].mean(), truth[inside, i].mean()
                gaps[i] += inside.mean() * abs(said - true)
                row.append(f"{said:.2f} / {true:.2f} ({inside.sum()})")
            else:
                row.append("")
        rows.append(row)
    rows.append(["mean gap", *(f"{gap:.3f}" for gap in gaps)])
    table("Reliability: mean score / mean label (edits), by score", ["score", *NAMES], rows)


def summary_rows(groups: Sequence[Group], rewards: Sequence[str], has_target: bool = True) -> dict[str, Scored]:
    found = {spec: score(spec, groups) for spec in rewards}
    rows = []
    for spec, scored in found.items():
        numbers = agreement(groups, scored, has_target)
        count = sum(len(group.images) for group in groups)
        speed = f"{count / scored.seconds:.0f}" if scored.seconds else ""
        shown = [numbers[k] for k in (*NAMES, "pairs", "hard pairs")]
        rows.append([spec, *shown, numbers.get("first", ""), numbers["failed"], speed])
    counted = agreement(groups, next(iter(found.values())), has_target)
    head = ["reward", *(f"Spearman {n}" for n in NAMES), "pairs", "hard pairs", "first", "failed", "edits/s"]
    edits = sum(len(group.images) for group in groups)
    table(f"{edits} edits, {counted['n']} pairs, {counted['n hard']} hard pairs", head, rows)
    return found


def kept_out(rewards: Sequence[str], count: int) -> None:
    only = world_groups(World("test", seed=1, kept_out="only"), count)
    parts = {
        "kind of instruction kept out of training (resize)": [g for g in only if g.kind in KEPT_OUT_KINDS],
        "shape-colour pairs kept out of training": [g for g in only if g.kind not in KEPT_OUT_KINDS],
    }
    for title, groups in parts.items():
        print(f"\n## {title}")
        summary_rows(groups, rewards)
    print("\n## flaws kept out of training (other_instruction, blocks) among the others")
    everything = World("test", seed=2, kept_out="include")
    tasks = (task for task in everything.tasks(20 * count) if task.kind not in KEPT_OUT_KINDS)
    mixed = []
    for task in tasks:
        found = everything.candidates(task, 10)
        if KEPT_OUT_FLAWS & {c.flaw for c in found}:
            mixed.append(group_of(task, [found[0], *(c for c in found[1:] if c.flaw in KEPT_OUT_FLAWS)]))
        if len(mixed) == count:
            break
    scored = summary_rows(mixed, rewards)
    flaw_table(mixed, scored[rewards[0]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=400, help="groups of 8 candidates")
    parser.add_argument("--rewards", nargs="+", default=REWARDS)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--outputs", nargs="+", type=Path, default=[], help="folders of edits instead of the world")
    parser.add_argument(
        "--card", type=Path, help="model folder whose mmreward.json and card get the first reward's numbers"
    )
    arguments = parser.parse_args()
    for place in arguments.outputs:
        print(f"\n## outputs of an editor: {place}")
        groups = output_groups(place)
        reliability(groups, summary_rows(groups, arguments.rewards, has_target=False)[arguments.rewards[0]])
    if arguments.outputs:
        return
    print(f"## {arguments.split} split, flaws and instructions that were trained on")
    groups = world_groups(World(arguments.split, seed=0), arguments.groups)
    found = summary_rows(groups, arguments.rewards)
    ties(groups, found[arguments.rewards[0]])
    for spec in arguments.rewards:
        if "way=pairwise" in spec:
            comparisons(spec, groups)
    flaw_table(groups, found[arguments.rewards[0]])
    reliability(groups, found[arguments.rewards[0]])
    kept_out(arguments.rewards, max(arguments.groups // 4, 8))
    if arguments.card:
        write_numbers(arguments.card, agreement(groups, found[arguments.rewards[0]]), arguments.split)


def write_numbers(folder: Path, numbers: dict[str, float | int], split: str) -> None:
    from mmreward.fit.judge_export import write_card

    card = json.loads((folder / "mmreward.json").read_text())
    card["numbers"] |= {f"{split}_{k.replace(' ', '_')}": round(float(v), 4) for k, v in numbers.items()}
    write_card(folder, card)


if __name__ == "__main__":
    main()
