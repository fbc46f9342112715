"""What cached encodings save: text, source and autoencoder of an iteration's samples, with the cache and without.

python tests/speed/cached_encodings.py                       # 16 tasks, 8 edits of each, on the bundled editor
python tests/speed/cached_encodings.py --editor FOLDER --groups 32 --out encodings.json

Three ways, taken in turn so that a busy machine slows all of them alike; medians over the rounds:
  without    each sample's row is encoded by itself, as it would be without a cache
  new        each task is encoded once and its condition repeated: an iteration of tasks not seen before
  again      the same tasks once more: the monitor's, and a file's from the second time around
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from editing.data import Task, TaskConfig, load_tasks
from editing.editors import load_editor
from editing.editors.editor import Condition
from editing.editors.pipeline import PipelineEditor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--editor", default="tiny", help="tiny, a folder, or a hub id with its options")
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    asked = parser.parse_args()

    editor = load_editor(asked.editor)
    assert isinstance(editor, PipelineEditor)
    tasks = load_tasks(TaskConfig(split="validation"))
    seconds: dict[str, list[float]] = {"without": [], "new": [], "again": []}
    for number in range(asked.rounds + 1):
        part = [tasks.task(number * asked.groups + place) for place in range(asked.groups)]
        for way, work in (("without", _uncached), ("new", _cached), ("again", _cached)):
            start = time.perf_counter()
            work(editor, part, asked.members)
            if number:  # the first round warms the machine up
                seconds[way].append(time.perf_counter() - start)
    found = {way: statistics.median(taken) for way, taken in seconds.items()}
    numbers = {
        "editor": asked.editor,
        "samples": asked.groups * asked.members,
        "seconds": {way: round(taken, 4) for way, taken in found.items()},
        "times as fast": {way: round(found["without"] / found[way], 1) for way in ("new", "again")},
    }
    print(json.dumps(numbers, indent=2))
    if asked.out:
        asked.out.write_text(json.dumps(numbers, indent=2) + "\n")


def _uncached(editor: PipelineEditor, tasks: Sequence[Task], members: int) -> Condition:
    conditions = []
    for task in tasks:
        for _ in range(members):
            editor.forget()
            conditions += editor.encode([task.source], [task.instruction])
    editor.forget()
    return editor.collate(conditions)


def _cached(editor: PipelineEditor, tasks: Sequence[Task], members: int) -> Condition:
    encoded = editor.encode([task.source for task in tasks], [task.instruction for task in tasks])
    return editor.collate(encoded).repeat(members)


if __name__ == "__main__":
    main()
