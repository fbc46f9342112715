"""The first iteration of each algorithm stays what it is: loss and gradient norm, kept in `tests/golden/training.json`.

Moving code must not move them. Where a change is meant, write the file again and say in the commit what moved and why:

    python tests/editing/test_golden_training.py
"""

import json
import tempfile
from pathlib import Path

import pytest

from editing.recipe import Recipe
from editing.trainer import train
from mmreward.training import read_log

FILE = Path(__file__).parents[1] / "golden" / "training.json"
ALGORITHMS = {
    "grpo": {"name": "grpo", "clip": 1e-3, "kl": 0.1},
    "grpo_guard": {"name": "grpo_guard", "clip": 1e-3, "kl": 0.1},
    "pref_grpo": {"name": "pref_grpo", "by": "scores", "clip": 1e-3, "kl": 0.1},
    "nft": {"name": "nft", "kl": 0.1, "levels": 2},
    "raft": {"name": "raft", "best": 2, "levels": 2},
    "rwr": {"name": "rwr", "temperature": 0.5, "levels": 2},
}
NAMES = ("reward", "loss", "grad_norm")
RELATIVE, ABSOLUTE = 1e-3, 1e-6
"""Sampling multiplies the rounding of a processor's matrix library, and GRPO's first loss is a sum of advantages that
cancel."""


def first_iteration(algorithm: str, folder: Path) -> dict[str, float]:
    """What the log says of the first iteration of the bundled editor, trained on `pixels`."""
    recipe = {
        "editor": "tiny",
        "roles": {"reward": "pixels", "monitor": "target", "final": None},
        "rollout": {"groups": 3, "members": 4, "steps": 4, "window": 2, "rule": "cps", "eta": 0.8},
        "advantage": {"deviation": "global", "floor": 1e-4},
        "algorithm": ALGORITHMS[algorithm],
        "policy": {"weights": "full", "ema": 0.9},
        "loop": {"steps": 1, "lr": 1e-4, "warmup": 0, "autocast": "no", "micro_batch": 6},
        "evaluation": {"every": 10, "monitor_tasks": 2, "monitor": {"split": "validation"}},
    }
    train(Recipe.model_validate(recipe), folder)
    (line,) = [line for line in read_log(folder / "log.jsonl") if line["kind"] == "train"]
    return {name: line[name] for name in NAMES}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_iteration_is_that_of_the_file(algorithm, tmp_path):
    assert first_iteration(algorithm, tmp_path / "run") == pytest.approx(
        json.loads(FILE.read_text())[algorithm], rel=RELATIVE, abs=ABSOLUTE
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        table = {name: first_iteration(name, Path(folder) / name) for name in ALGORITHMS}
    FILE.write_text(json.dumps(table, indent=1) + "\n")
