"""How fast the parts that people wait for are: start of the command line, and scoring 1,000 edits with a judge.

    python tests/speed/scoring.py                    # start-up times, then vlm:tiny
    python tests/speed/scoring.py --reward clip:tiny --edits 500

Start-up: median wall seconds of seven new processes. Scoring: the edits (eight candidates of each source) lie as PNG
files beside a JSONL file and go through the path of `mmreward score`; seconds after the model has loaded, edits per
second, and the share of the time that the model's own modules took (vision tower, language model, output layer).
"""

__all__ = ["main"]

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

from mmreward import load_reward
from mmreward.batch import read_rows, score_rows
from mmreward.shapes import World

_HELP = "import sys; sys.argv[1:] = ['--help']; from app.cli import main; main()"
_STARTS = {
    "import mmreward": [sys.executable, "-c", "import mmreward"],
    "mmreward --help": [sys.executable, "-c", _HELP],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reward", default="vlm:tiny")
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    for name, command in _STARTS.items():
        print(f"{name}: {statistics.median(_seconds(command) for _ in range(7)):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        rows = _write_edits(Path(folder), arguments.edits)
        reward = load_reward(arguments.reward)
        inside = _Inside(reward)
        list(score_rows(list(read_rows(rows))[:64], reward))  # the first call builds kernels and caches
        runs = [_score(rows, reward, inside) for _ in range(arguments.repeats)]
    seconds = statistics.median(run[0] for run in runs)
    share = statistics.median(run[1] / run[0] for run in runs)
    print(f"{arguments.reward}: {arguments.edits} edits in {seconds:.2f} s, {arguments.edits / seconds:.0f} edits/s, "
          f"{share:.0%} of it in the model (median of {arguments.repeats})")  # fmt: skip


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def _write_edits(folder: Path, count: int) -> Path:
    world = World("test")
    lines = []
    for index in range(-(-count // 8)):
        task = world.task(index)
        Image.fromarray(task.source_image).save(folder / f"{index}.png")
        for place, candidate in enumerate(world.candidates(task, 8)):
            name = f"{index}-{place}.png"
            Image.fromarray(candidate.image).save(folder / name)
            lines.append({"instruction": task.instruction, "source": f"{index}.png", "edited": name})
    path = folder / "edits.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
    return path


class _Inside:
    """Seconds spent in the modules that do a model's arithmetic."""

    def __init__(self, reward: Any) -> None:
        self.seconds = 0.0
        model = reward.backend.model if hasattr(reward, "backend") else None
        modules = [model.model.visual, model.model.language_model, model.lm_head] if model is not None else []
        for module in modules:
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def _leave(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._start


def _score(path: Path, reward: Any, inside: _Inside) -> tuple[float, float]:
    inside.seconds = 0.0
    start = time.perf_counter()
    failed = sum(not scored.score.ok for scored in score_rows(read_rows(path), reward))
    seconds = time.perf_counter() - start
    assert not failed, f"{failed} edits have no score"
    return seconds, inside.seconds


if __name__ == "__main__":
    main()
