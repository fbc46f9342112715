"""Scores of the bundled models stay what they are: 200 scores, kept in `tests/golden/scores.json`.

A change of preprocessing, of words or of a formula moves them; moving code must not. Where a change is meant, write the
file again and say in the commit what moved and why:

    python tests/mmreward/test_golden_scores.py
"""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.shapes import World

FILE = Path(__file__).parents[1] / "golden" / "scores.json"
REWARDS = ("vlm:tiny", "vlm:tiny?way=checklist", "clip:tiny", "pixels", "recommended")
GROUPS, CANDIDATES = 10, 4
TOLERANCE = 1e-4
"""Matrix libraries round by processor: a unit in the sixth place."""


def edits() -> list[Edit]:
    """40 edits: four candidates, right and flawed, of each of ten validation tasks."""
    world = World("validation", seed=7)
    return [
        Edit(
            task.instruction,
            Image.fromarray(task.source_image),
            Image.fromarray(candidate.image),
            target=Image.fromarray(task.target_image),
            source_caption=task.source_caption,
            target_caption=task.target_caption,
        )
        for task in world.tasks(GROUPS)
        for candidate in world.candidates(task, CANDIDATES)
    ]


def numbers(spec: str) -> list[dict[str, float]]:
    """Overall and dimensions of each edit."""
    scores = load_reward(spec).score(edits())
    assert all(score.ok for score in scores), [score.error for score in scores if not score.ok]
    return [{"overall": score.overall, **score.dims} for score in scores]


@pytest.mark.parametrize("spec", REWARDS)
def test_scores_are_those_of_the_file(spec):
    expected = json.loads(FILE.read_text())[spec]
    scores = numbers(spec)
    assert len(scores) == len(expected) == GROUPS * CANDIDATES
    for row, (score, kept) in enumerate(zip(scores, expected)):
        assert score.keys() == kept.keys()
        for name, value in score.items():
            assert math.isclose(value, kept[name], abs_tol=TOLERANCE), f"{spec}, edit {row}, {name}"


if __name__ == "__main__":
    table = {spec: [{k: round(v, 6) for k, v in row.items()} for row in numbers(spec)] for spec in REWARDS}
    lines = ",\n".join(
        f' "{spec}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for spec, rows in table.items()
    )
    FILE.write_text("{\n" + lines + "\n}\n")
