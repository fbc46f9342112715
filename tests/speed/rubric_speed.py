"""Rubric with n passes: `editscore:` beside the published package `editscore`, and the expected score beside both.

    python tests/speed/rubric_speed.py                                       # pip install --no-deps editscore
    python tests/speed/rubric_speed.py --passes 4 --new-tokens 32 --shape bundled --size 224
    python tests/speed/rubric_speed.py --shape 3B --size 448 --groups 2      # on a GPU

Both read the same folders: a random Qwen2.5-VL of the given shape and a random LoRA adapter in the layout that
EditScore is published in, with the package's own words. What random weights write has no end and no scores in it. So
each text is made to have exactly `--new-tokens` tokens on both sides, and the package is told that it could read them
(it would ask up to twice again). Candidates of one source come as a group, and the two take turns; edits per second
are medians over groups, and so is the ratio. The expected score asks the three questions of edit-1 of the same weights.
The last row is the bundled judge, asked as it was trained, with the share of pairs that it orders as the oracle does.
"""

from __future__ import annotations

__all__ = ["main"]

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from judge_shapes import SHAPES, new_shape
from PIL import Image
from rich.console import Console
from rich.progress import track

from app.quiet import quiet
from mmreward import Edit, load_reward
from mmreward.fit.judge_check import order
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.checkpoints.editscore import PLACES, PUBLISHED
from mmreward.judge.checkpoints.texts import package_folder, read_texts
from mmreward.judge.question import load_questions
from mmreward.judge.reward import JudgeReward
from mmreward.judge.ways.expected import ExpectedScore
from mmreward.shapes import World

Group = tuple[list[Edit], np.ndarray]
"""Edits of one source, and the oracle's overall of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="bundled", choices=sorted(SHAPES))
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="side of the images in pixels")
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--bundled-groups", type=int, default=100, help="for the bundled judge's pairs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-seconds", action="store_true", help="count this process's CPU time, for a busy machine (--threads 1)"
    )
    options = parser.parse_args()
    clock = time.process_time if options.cpu_seconds else time.perf_counter
    torch.set_num_threads(options.threads)
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        base, adapter = _write_folders(Path(folder), options.shape)
        theirs, counted = _package(base, adapter, options.passes, options.new_tokens)
        ours, written = _reward(base, adapter, options.passes, options.new_tokens)
    backend = TransformersBackend(ours.backend.model, ours.backend.processor)  # with no image in its memory
    way = ExpectedScore(load_questions("edit-1"), floor=0.0)
    expected = JudgeReward(backend, way, name="expected", model="the same weights")
    first, *groups = list(_groups(options.groups + 1, options.candidates, options.size))
    ways: dict[str, Callable[[Sequence[Edit]], Any]] = {
        f"package editscore, {options.passes} passes": theirs,
        f"editscore:, {options.passes} passes": ours.score,
        "editscore:, expected score": expected.score,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in ways.values():
        run(first[0][:1])  # the first call builds kernels and caches
    for edits, _ in track(groups, "groups", console=Console(stderr=True), transient=True):
        for name, run in ways.items():
            seconds[name].append(_seconds(partial(run, edits), clock))
    assert sum(counted) == sum(written), f"{sum(counted)} new tokens by the package and {sum(written)} by us"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{options.shape} shape, random weights, {device}, {torch.get_num_threads()} threads; "
          f"{options.groups} groups of {options.candidates} candidates, images of {options.size} x {options.size}; "
          f"{options.new_tokens} new tokens a text, two texts a pass")  # fmt: skip
    print(f"new tokens by the package and by us, with the warm-up: {sum(counted)} and {sum(written)}\n")
    print("| judge | edits/s | by the package | pairs right |")
    print("|---|---|---|---|")
    published = next(iter(seconds.values()))
    for name, some in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(published, some, strict=True))
        print(f"| {name} | {options.candidates / statistics.median(some):.2f} | {ratio:.1f}x | random weights |")
    speed, right, pairs = _bundled(options.bundled_groups, options.candidates, clock)
    print(f"| vlm:tiny, expected score, images of 64 x 64 | {speed:.1f} | - | {right:.3f} of {pairs} |")


def _write_folders(folder: Path, shape: str) -> tuple[Path, Path]:
    """A base model and an adapter, weights random."""
    from peft import LoraConfig, get_peft_model

    texts = read_texts(package_folder("editscore", "EditScore"), PLACES, PUBLISHED).values
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model, processor = new_shape(shape, texts, dtype=dtype)
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    config = LoraConfig(r=8, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def _package(base: Path, adapter: Path, passes: int, tokens: int) -> tuple[Callable[[Sequence[Edit]], None], list[int]]:
    """The package's `evaluate` for each edit in turn, and the number of new tokens of each text."""
    import editscore

    with _here():
        scorer = editscore.EditScore("qwen25vl", model_name_or_path=str(base), lora_path=str(adapter), num_pass=passes)
    model = scorer.model.model
    if not torch.cuda.is_available():
        model.float()  # as ours; bfloat16 is slow on most CPUs
    generate, counted = model.generate, []

    def exactly(**options: Any) -> Any:
        told = generate(**options | {"min_new_tokens": tokens, "max_new_tokens": tokens})
        counted.append(told.shape[1] - options["input_ids"].shape[1])
        return told

    model.generate = exactly

    def evaluate(edits: Sequence[Edit]) -> None:
        readable = {"score": [20, 20], "reasoning": ""}
        with _here(), patch.object(editscore, "mllm_output_to_dict", lambda *_, **__: readable), torch.inference_mode():
            for edit in edits:
                scorer.evaluate([edit.image("source"), edit.image("edited")], edit.instruction)

    return evaluate, counted


@contextmanager
def _here() -> Iterator[None]:
    """The package moves its inputs to "cuda" by name; without a GPU they stay."""
    from transformers import BatchFeature

    if torch.cuda.is_available():
        yield
        return
    with patch.object(BatchFeature, "to", lambda self, *_, **__: self):
        yield


def _reward(base: Path, adapter: Path, passes: int, tokens: int) -> tuple[Any, list[int]]:
    """Our reward on the same folders, whose texts never end early, and the number of new tokens of each text."""
    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    reward: Any = load_reward(f"editscore:{adapter}?base={base}&passes={passes}&max_new_tokens={tokens}&dtype={dtype}")
    writer, counted = reward.backend.shared._writer, []
    writer.ending.clear()
    text = writer._text

    def count(ids: Sequence[int], *rest: Any) -> Any:
        counted.append(len(ids))
        return text(ids, *rest)

    writer._text = count
    return reward, counted


def _groups(count: int, candidates: int, size: int | None) -> Iterator[Group]:
    def shown(pixels: np.ndarray) -> Image.Image:
        image = Image.fromarray(pixels)
        return image.resize((size, size)) if size else image

    world = World("test", seed=5)
    for task in world.tasks(count):
        source, found = shown(task.source_image), world.candidates(task, candidates)
        edits = [Edit(task.instruction, source, shown(one.image)) for one in found]
        yield edits, np.asarray([one.truth.overall for one in found])


def _bundled(count: int, candidates: int, clock: Callable[[], float]) -> tuple[float, float, int]:
    """Edits per second of `vlm:tiny` over all groups, the share of pairs that it orders right, their number."""
    reward, groups = load_reward("vlm:tiny"), list(_groups(count, candidates, None))
    reward.score(groups[0][0])
    edits = [edit for some, _ in groups for edit in some]
    start = clock()
    scores = np.asarray([score.overall for score in reward.score(edits)]).reshape(count, candidates)
    seconds = clock() - start
    pairs = order(list(scores), [labels for _, labels in groups])
    return len(edits) / seconds, pairs.right, pairs.count


def _seconds(run: Callable[[], Any], clock: Callable[[], float]) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
