"""The over-optimisation figure: what a judge says of an editor that trains on it, and what is true, by distance gone.

    python tests/speed/overoptimisation.py --out runs/over --judges 25600 64000 --iterations 60

Judges of three sizes of data: `--judges` are candidate edits, 128 a step, that the recipe `tiny-judge` trains on after
300 steps of looking at images; the bundled one, which saw half a million edits, is the third. With each of them alone
as the reward the bundled editor is trained with the recipe `nft-tiny`, here on the overall and with AdamW. Every few
iterations its edits of the same validation tasks are scored by that judge and by the oracle, and the divergence from
the start is taken (KL in nats, of the recipe's sampler). What is finished is kept, and the same command goes on where
it was stopped. Writes `results.json`, and `overoptimisation.png` where matplotlib is installed.
(After Gao et al., "Scaling laws for reward model overoptimization", 2023, https://arxiv.org/abs/2210.10760.)
"""

__all__ = ["main"]

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from app.commands.train import find_recipe, read_recipe
from editing.data import load_tasks
from editing.editors import load_editor
from editing.recipe import Recipe
from editing.roles import Roles
from editing.trainer import Trainer
from mmreward import Edit, Score, load_reward
from mmreward.reward import Reward
from mmreward.training.checkpoint import latest_checkpoint

EDITS_A_STEP = 128
LOOK_STEPS = 300
"""Steps of the recipe that ask nothing of the judge."""
BUNDLED_EDITS = 492_544
"""What the bundled judge was trained on, by its card."""

PLAIN = (
    "data.kinds=[recolour, remove, add, move, background]",
    "advantage.normalise=overall",
    "advantage.parts=null",
    "advantage.conjunction=null",
    "loop.optimizer=adamw",
)
"""Changes of the recipe: the judge's one number is what is learned from, with AdamW."""


@dataclass(frozen=True)
class Judge:
    """A reward and the number of candidate edits that it learned from."""

    name: str
    reward: str
    edits: int


class Both(Reward):
    """The oracle's score, with what the judge says as one of its dimensions: a monitor that sees both."""

    name = "both"
    dims = ("judge", "oracle")

    def __init__(self, judge: Reward, oracle: Reward) -> None:
        self.judge, self.oracle = judge, oracle

    def score(self, edits: Sequence[Edit]) -> list[Score]:
        pairs = zip(self.judge.score(edits), self.oracle.score(edits), strict=True)
        return [self._join(judged, true) for judged, true in pairs]

    def _join(self, judged: Score, true: Score) -> Score:
        for score in (true, judged):
            if not score.ok:
                return score
        return Score(true.overall, {"judge": judged.overall, "oracle": true.overall}, raw=true.raw, provenance={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--judges", type=int, nargs="*", default=[25_600, 64_000], help="candidate edits the smaller judges learn from"
    )
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--every", type=int, default=4, help="iterations from one look to the next")
    parser.add_argument("--tasks", type=int, default=128, help="validation tasks of a look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of one judge")
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe nft-tiny, key=value")
    options = parser.parse_args()
    found = [small(edits, options) for edits in options.judges if options.only in (None, f"judge-{edits}")]
    if options.only in (None, "bundled"):
        found.append(Judge("bundled", "vlm:tiny", BUNDLED_EDITS))
    for judge in found:
        train(judge, options)
        write(options)


def small(edits: int, options: argparse.Namespace) -> Judge:
    """A judge from nothing, after so many edits."""
    folder = options.out / f"judge-{edits}"
    steps = LOOK_STEPS + edits // EDITS_A_STEP
    if not (folder / "model").is_dir():
        command = [sys.executable, "-m", "mmreward", "train", "tiny-judge", "--out", str(folder)]
        command += ["--set", f"loop.steps={steps}", "--set", f"dense_steps={steps}"]
        command += ["--set", f"look_steps={LOOK_STEPS}"]
        if latest_checkpoint(folder) is not None:
            command.append("--resume")
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})
    return Judge(folder.name, f"vlm:{folder / 'model'}", edits)


def train(judge: Judge, options: argparse.Namespace) -> None:
    """The bundled editor on this judge alone."""
    folder = options.out / f"editor-{judge.name}"
    if (folder / "model" / "model_index.json").is_file():
        return
    looks = [f"evaluation.every={options.every}", f"evaluation.monitor_tasks={options.tasks}"]
    run = [f"loop.steps={options.iterations}", "loop.minutes=null", "loop.decay=constant", f"loop.seed={options.seed}"]
    roles = [f"roles.reward={judge.reward}", "roles.monitor=oracle", "roles.final=null"]
    settings = read_recipe(find_recipe("nft-tiny"), [*PLAIN, *roles, *looks, *run, *options.set])
    settings.pop("task")
    recipe = Recipe.model_validate(settings)
    reward = load_reward(judge.reward)
    both: Any = Both(reward, load_reward("oracle"))
    editor, tasks = load_editor(recipe.editor), load_tasks(recipe.data)
    trainer = Trainer(recipe, editor, Roles(reward, both, None), tasks, folder, Accelerator(mixed_precision="no"))
    print(f"{judge.name}: {judge.edits:,} edits", flush=True)
    trainer.fit(resume=latest_checkpoint(folder) is not None)
    trainer.finish()
    (folder / "judge.json").write_text(json.dumps({"name": judge.name, "edits": judge.edits}) + "\n")


def write(options: argparse.Namespace) -> None:
    """All looks of the finished runs as JSON, as a table and as a figure."""
    curves = []
    for file in sorted(options.out.glob("editor-*/judge.json")):
        entries = [json.loads(line) for line in (file.parent / "log.jsonl").read_text().splitlines()]
        looks = [
            {"step": one["step"], "kl": one["kl_nats"], "judge": one["judge"], "oracle": one["oracle"]}
            for one in entries
            if one["kind"] == "monitor"
        ]
        curves.append({**json.loads(file.read_text()), "looks": looks})
    curves.sort(key=lambda curve: int(curve["edits"]))
    (options.out / "results.json").write_text(json.dumps(curves, indent=2) + "\n")
    print("| judge learned from | its score: start, end | oracle: start, best (at nats), end | nats at the end |")
    print("|---|---|---|---|")
    for curve in curves:
        looks = curve["looks"]
        best = max(looks, key=lambda look: look["oracle"])
        first, last = looks[0], looks[-1]
        print(
            f"| {curve['edits']:,} edits | {first['judge']:.3f}, {last['judge']:.3f} | {first['oracle']:.3f}, "
            f"{best['oracle']:.3f} ({best['kl']:.0f}), {last['oracle']:.3f} | {last['kl']:.0f} |",
            flush=True,
        )
    draw(curves, options.out / "overoptimisation.png")


def draw(curves: list[dict[str, Any]], file: Path) -> None:
    try:
        from matplotlib import pyplot
    except ImportError:
        print(f"no figure: pip install matplotlib, and run this again for {file}")
        return
    figure, panels = pyplot.subplots(1, len(curves), figsize=(3.6 * len(curves), 3.4), sharey=True, squeeze=False)
    lines = (("judge", "what the judge says", "o--", "#0072b2"), ("oracle", "what is true (oracle)", "s-", "#d55e00"))
    for panel, curve in zip(panels[0], curves, strict=True):
        looks = curve["looks"]
        x = [look["kl"] for look in looks]
        for key, label, style, colour in lines:
            panel.plot(x, [look[key] for look in looks], style, color=colour, label=label, markersize=3, linewidth=1)
            for place in (0, len(looks) // 2, -1):  # the way is not straight: say when
                look = looks[place]
                panel.annotate(look["step"], (look["kl"], look[key]), (2, 4), textcoords="offset points", fontsize=7)
        panel.set_title(f"judge of {curve['edits']:,} edits", fontsize=10)
        panel.set_xlabel("KL from the start, nats (small numbers: iterations)", fontsize=8)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean overall")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="upper center", ncols=2, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
