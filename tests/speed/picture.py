"""The picture of the README: edits by the bundled editor and by a trained one, from the same noise.

python tests/speed/picture.py runs/grpo/model --out assets/readme.png
python tests/speed/picture.py runs/grpo/model --tasks 3,8,21,40 --reward recommended

The scores are the oracle's unless another reward is named. Without --tasks it takes the first test tasks on which the
two editors differ, one of each kind of instruction: an illustration, not a measurement (that is the table beside it).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from app.quiet import quiet
from app.web.picture import draw_picture
from app.web.report import Example, Shown
from editing.data import TaskConfig, load_tasks
from editing.editors import load_editor
from editing.evaluation import sample
from mmreward import load_reward
from mmreward.shapes import World

KINDS = ("recolour", "remove", "add", "move", "background")


def main() -> None:
    quiet()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", help="folder of the trained editor")
    parser.add_argument("--start", default="tiny", help="the editor before training")
    parser.add_argument("--out", type=Path, default=Path("assets/readme.png"))
    parser.add_argument("--reward", default="oracle")
    parser.add_argument("--tasks", help="numbers of test tasks, separated by commas")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()

    numbers = [int(n) for n in asked.tasks.split(",")] if asked.tasks else list(range(24))
    found = examples(asked.start, asked.trained, asked.reward, numbers, asked.members, asked.steps)
    if not asked.tasks:
        found = _varied(found, numbers, asked.rows)
    draw_picture(found).save(asked.out, optimize=True)
    print(f"{asked.out}: {asked.out.stat().st_size / 1024:.0f} KB")


def examples(start: str, trained: str, reward: str, numbers: Sequence[int], members: int, steps: int) -> list[Example]:
    """Edits of test tasks by both editors; member k of a task starts from the same noise for both."""
    world = load_tasks(TaskConfig(split="test", kinds=KINDS))
    tasks = [world.task(number) for number in numbers]
    judge, strips = load_reward(reward), []
    for spec in (start, trained):
        editor = load_editor(spec)
        shown: list[list[Shown]] = [[] for _ in tasks]
        for member in range(members):
            images = sample(editor, tasks, steps, noise=f"picture-{member}")
            scores = judge.score([task.edit(image) for task, image in zip(tasks, images)])
            for place, (image, score) in enumerate(zip(images, scores)):
                shown[place].append(Shown(image, score.overall if score.ok else None, score.status))
        strips.append(shown)
    return [Example(task.instruction, task.source, *pair) for task, *pair in zip(tasks, *strips)]


def _varied(found: Sequence[Example], numbers: Sequence[int], rows: int) -> list[Example]:
    """The first example of each kind whose mean score differs by more than 0.05; then whatever comes next."""
    world = World("test", kinds=KINDS)
    kinds = [world.task(number).kind for number in numbers]
    differs = [i for i, e in enumerate(found) if abs(_mean(e.after) - _mean(e.before)) > 0.05]
    chosen = [next((i for i in differs if kinds[i] == kind), None) for kind in KINDS]
    order = [i for i in chosen if i is not None]
    order += [i for i in (*differs, *range(len(found))) if i not in order]
    return [found[i] for i in list(dict.fromkeys(order))[:rows]]


def _mean(shown: Sequence[Shown]) -> float:
    return sum(one.score or 0.0 for one in shown) / max(len(shown), 1)


if __name__ == "__main__":
    main()
