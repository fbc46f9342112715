"""Four ways of asking a judge about candidates of one source, and the bound of each: see judge_speed.py."""

from __future__ import annotations

__all__ = ["Asked", "Table", "Way", "ask_groups", "new_groups", "new_ways", "prompt_lengths"]

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmreward.fit.judge_check import order
from mmreward.judge.backends.shared import SharedTrees
from mmreward.judge.backends.transformers import LAYOUTS, TransformersBackend
from mmreward.judge.backends.tree import Node, images_of, split
from mmreward.judge.labels import Answer
from mmreward.judge.prompt import Prompt
from mmreward.judge.question import QuestionSet
from mmreward.judge.ways.expected import score_of
from mmreward.shapes import World


@dataclass(frozen=True)
class Asked:
    """All questions about the candidates of one source, and the oracle's overall [K] of each."""

    prompt: Prompt
    labels: np.ndarray


@dataclass(frozen=True)
class Pass:
    """A forward pass: so many images through the vision tower, then `rows` x `length` tokens."""

    images: int
    rows: int
    length: int


@dataclass(frozen=True)
class Way:
    """`ask` answers a group, in `passes`."""

    name: str
    ask: Callable[[Prompt], list[Answer]]
    passes: Sequence[Pass]

    @property
    def images(self) -> int:
        return sum(one.images for one in self.passes)

    @property
    def tokens(self) -> int:
        return sum(one.rows * one.length for one in self.passes)


@dataclass
class Table:
    """What was measured of each way, a number a group: seconds, seconds of the bound, scores [K]; peak bytes in all."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    bounds: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, list[np.ndarray]] = field(default_factory=dict)
    gaps: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    labels: list[np.ndarray] = field(default_factory=list)

    def faster(self, name: str, than: str) -> float:
        """Median over groups of how many times as fast one way is as another."""
        return statistics.median(a / b for a, b in zip(self.seconds[than], self.seconds[name], strict=True))

    def share(self, name: str) -> float:
        """Median over groups of the bound's seconds by the way's."""
        return statistics.median(a / b for a, b in zip(self.bounds[name], self.seconds[name], strict=True))

    def right(self, name: str) -> float:
        """Share of pairs that the scores order as the oracle does."""
        return order(self.scores[name], self.labels).right


def new_groups(questions: QuestionSet, candidates: int, count: int, size: int | None) -> list[Asked]:
    """Groups of the test split of the shapes world, images resized to `size` a side."""

    def shown(pixels: np.ndarray) -> Image.Image:
        image = Image.fromarray(pixels)
        return image.resize((size, size)) if size else image

    world, groups = World("test", seed=5), []
    for task in world.tasks(count):
        found = world.candidates(task, candidates)
        prompt = questions.prompt(task.instruction, shown(task.source_image), [shown(one.image) for one in found])
        groups.append(Asked(prompt, np.asarray([one.truth.overall for one in found])))
    return groups


def new_ways(model: Any, processor: Any, questions: QuestionSet, prompt: Prompt, tokens: int) -> list[Way]:
    """The ways of asking a model. Passes are those of `prompt`; other groups differ in a few words."""
    made = {layout: TransformersBackend(model, processor, layout=layout, tokens=tokens) for layout in LAYOUTS}

    def answers(layout: str, prompts: Sequence[Prompt]) -> list[Answer]:
        return [answer for row in made[layout].probabilities(prompts, questions.labels) for answer in row]

    tree = _read(made["packed"], prompt)
    lengths = sorted((leaf.count for leaf in tree.ends()), reverse=True)
    size = max(1, tokens // lengths[0])
    batches = [lengths[start : start + size] for start in range(0, len(lengths), size)]
    images = len({id(image) for image in images_of(prompt)})
    parts = list(split(tree, tokens))
    levels = [level for level in _levels([tree]) if max(level)]
    return [
        Way(
            "one by one",
            lambda p: [answers("plain", [Prompt(path)])[0] for path in p.paths()],
            [Pass(2, 1, length) for length in lengths],
        ),
        Way(
            "plain batches",
            lambda p: answers("plain", [p]),
            [Pass(2 * len(batch), len(batch), batch[0]) for batch in batches],
        ),
        Way(
            "cache reuse",
            lambda p: answers("cached", [p]),
            [Pass(0 if i else images, len(level), max(level)) for i, level in enumerate(levels)],
        ),
        Way(
            "packed",
            lambda p: answers("packed", [p]),
            [Pass(0 if i else images, 1, part.size) for i, part in enumerate(parts)],
        ),
    ]


def prompt_lengths(model: Any, processor: Any, prompt: Prompt) -> str:
    """How many tokens each part of a prompt has, in words."""
    backend = TransformersBackend(model, processor, layout="packed")
    tree = _read(backend, prompt)
    first = tree.children[0]
    picture = next(iter(_shared(backend).vision.look(list(images_of(prompt))[:1]).values()))
    asked = ", ".join(str(len(leaf.ids)) for leaf in first.children)
    return (
        f"{len(tree.children)} candidates of one source, {len(first.children)} questions each; tokens: {len(tree.ids)} "
        f"shared, {len(first.ids)} a candidate, {asked} a question; {len(picture.prepared.ids)} of these an image"
    )


def ask_groups(ways: Sequence[Way], backend: TransformersBackend, dims: Sequence[str], groups: Iterable[Asked],
               clock: Callable[[], float] = time.perf_counter) -> Table:  # fmt: skip
    """Asks each group each way, in turns, so that all meet the same machine, each beside its bound."""
    table = Table()
    for number, group in enumerate(groups):
        told = {}
        for way in ways:
            _forget_peak()
            seconds, told[way.name] = _timed(partial(way.ask, group.prompt), clock)
            table.peaks[way.name] = max(table.peaks.get(way.name, 0), _peak())
            if number:  # the first builds kernels and caches
                table.seconds.setdefault(way.name, []).append(seconds)
                table.scores.setdefault(way.name, []).append(_overall(told[way.name], dims))
            bound = _bare(backend, way, group.prompt, clock)
            if number:
                table.bounds.setdefault(way.name, []).append(bound)
            gap = _difference(told[way.name], told[ways[0].name])
            table.gaps[way.name] = max(table.gaps.get(way.name, 0.0), gap)
        if number:
            table.labels.append(group.labels)
    return table


@torch.inference_mode()
def _bare(backend: TransformersBackend, way: Way, prompt: Prompt, clock: Callable[[], float]) -> float:
    """Seconds of the modules alone for a way's images and tokens: no image is read, no mask made, no answer."""
    vision, decoder = _shared(backend).vision, backend.model.get_decoder()
    images = list({id(image): image for image in images_of(prompt)}.values())
    prepared = vision.family.prepare(images)
    embed, device = backend.model.get_input_embeddings(), backend.model.device
    embeds = [embed(torch.randint(0, 100, (one.rows, one.length), device=device)) for one in way.passes]

    def run() -> None:
        for one, tokens in zip(way.passes, embeds, strict=True):
            if one.images:
                vision.features([prepared[i % len(prepared)] for i in range(one.images)])
            decoder(inputs_embeds=tokens, use_cache=False)

    return _timed(run, clock)[0]


def _timed(run: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    _wait()
    start = clock()
    result = run()
    _wait()
    return clock() - start, result


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def _shared(backend: TransformersBackend) -> SharedTrees:
    assert backend.shared is not None, "the model's family is not known well enough to share prompts"
    return backend.shared


def _read(backend: TransformersBackend, prompt: Prompt) -> Node:
    (tree,) = _shared(backend)._read([prompt])
    return tree


def _levels(nodes: Sequence[Node]) -> list[list[int]]:
    """Tokens of the nodes of each level of trees."""
    below = [child for node in nodes for child in node.children]
    return [[len(node.ids) for node in nodes], *(_levels(below) if below else [])]


def _overall(told: Sequence[Answer], dims: Sequence[str]) -> np.ndarray:
    """The score of each candidate [K], whatever probability the labels hold."""
    rows = [told[start : start + len(dims)] for start in range(0, len(told), len(dims))]
    return np.asarray([score_of(dict(zip(dims, row, strict=True)), 0.0, {}).overall for row in rows])


def _difference(told: Sequence[Answer], other: Sequence[Answer]) -> float:
    """The largest difference of a label's log-probability."""
    one, two = (np.log(np.clip([row.probabilities for row in rows], 1e-30, None)) for rows in (told, other))
    return float(np.abs(one - two).max())
