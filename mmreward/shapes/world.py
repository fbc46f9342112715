"""The shapes world: editing tasks and candidate edits with exact labels, from a seed.

A scene belongs to one split by the hash of its content (90 % train, 5 % validation, 5 % test), so that no scene and
therefore no (scene, instruction) of one split occurs in another, whatever the seed. Everything is a function of
(split, seed, index).

    >>> world = World("train", seed=0)
    >>> task = world.task(3)
    >>> right, *flawed = world.candidates(task, 8)
    >>> right.flaw, right.truth.overall
    ('none', 1.0)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from mmreward.shapes.flaws import ARTEFACTS, KEPT_OUT_FLAWS, SCENE_FLAWS, damage
from mmreward.shapes.language import KINDS, Add, Change, Move, SetBackground, apply, say
from mmreward.shapes.oracle import SUCCESS_QUALITY, Truth, truth
from mmreward.shapes.read import Reading, residual
from mmreward.shapes.render import render
from mmreward.shapes.sample import draw_change, draw_scene, jittered, pick
from mmreward.shapes.scene import KEPT_OUT_PAIRS, SIZES, Scene

__all__ = ["KEPT_OUT_KINDS", "SPLITS", "Candidate", "Task", "World", "split_of"]

SPLITS = ("train", "validation", "test")
KEPT_OUT_KINDS = frozenset({"resize"})
"""Kinds of instruction that no bundled judge has seen in training."""
_TASK, _CANDIDATES, _FLAWED = range(3)  # streams of random numbers
_ALSO_DAMAGED = 0.2
"""Share of edits with a flawed scene that have an artefact besides."""
_FAILED_QUALITY = SUCCESS_QUALITY - 0.05


@dataclass(frozen=True)
class Task:
    """A source scene, an instruction, and the scene that it asks for."""

    id: str
    kind: str
    source: Scene
    target: Scene
    changes: tuple[Change, ...]
    instruction: str
    index: int
    size: int = 64

    @cached_property
    def source_image(self) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return render(self.source, self.size)

    @cached_property
    def target_image(self) -> np.ndarray:
        """uint8 [size, size, 3]."""
        return render(self.target, self.size)

    @property
    def source_caption(self) -> str:
        return self.source.caption(self.index)

    @property
    def target_caption(self) -> str:
        return self.target.caption(self.index)


@dataclass(frozen=True)
class Candidate:
    """An edited image uint8 [size, size, 3], the scene it shows, its main flaw ("none": the target), its labels."""

    image: np.ndarray
    scene: Scene
    flaw: str
    truth: Truth


@dataclass(frozen=True)
class World:
    """Tasks of one split.

    split: "train", "validation" or "test". kinds: kinds of instruction, all where None. size: pixels a side.
    kept_out: "exclude" leaves out what judges are not taught (two flaws, one kind of instruction, four shape-colour
    pairs), "only" gives tasks that have a kept-out kind or pair, "include" gives everything.
    """

    split: str = "train"
    seed: int = 0
    size: int = 64
    kinds: tuple[str, ...] | None = None
    kept_out: str = "exclude"

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {self.split!r}")
        if self.kept_out not in ("exclude", "only", "include"):
            raise ValueError(f"kept_out must be exclude, only or include, got {self.kept_out!r}")
        unknown = set(self.kinds or ()) - set(KINDS)
        if unknown:
            raise ValueError(f"unknown kinds of instruction {sorted(unknown)}; there are {KINDS}")

    def task(self, index: int) -> Task:
        """The task number `index`, from 0 upwards without end."""
        rng = self._rng(index, _TASK)
        while True:
            source = draw_scene(rng)
            if split_of(source) != self.split:
                continue
            kind = pick(self._kinds, rng)
            changes = self._changes(kind, source, rng)
            if changes is None:
                continue
            target = apply(source, changes, pick(SIZES, rng))
            if self._wanted(kind, source, target):
                name = f"{self.split}-{self.seed}-{index}"
                return Task(name, kind, source, target, changes, say(changes, source, rng), index, self.size)

    def tasks(self, count: int, start: int = 0) -> Iterator[Task]:
        return (self.task(index) for index in range(start, start + count))

    def candidates(self, task: Task, count: int) -> list[Candidate]:
        """The true target and `count` - 1 flawed edits of a task, of varied kinds."""
        rng = self._rng(task.index, _CANDIDATES)
        right = self._candidate(task, "none", task.target, rng)
        flaws = [flaw for flaw in (*SCENE_FLAWS, *ARTEFACTS) if self._allows(flaw)]
        order: list[str] = []
        found = [right]
        while len(found) < count:
            order = order or [flaws[i] for i in rng.permutation(len(flaws))]
            candidate = self._flawed(task, order.pop(), rng)
            if candidate is not None:
                found.append(candidate)
        return found

    def flawed_target(self, task: Task, draw: int = 0) -> Candidate:
        """One flawed edit of a task, for training data with mistakes; `draw` numbers them."""
        rng = self._rng(task.index, _FLAWED + draw)
        flaws = [flaw for flaw in (*SCENE_FLAWS, *ARTEFACTS) if self._allows(flaw)]
        while True:
            candidate = self._flawed(task, pick(flaws, rng), rng)
            if candidate is not None:
                return candidate

    @property
    def _kinds(self) -> Sequence[str]:
        kinds = self.kinds or KINDS
        return [kind for kind in kinds if kind not in KEPT_OUT_KINDS] if self.kept_out == "exclude" else kinds

    def _allows(self, flaw: str) -> bool:
        return self.kept_out != "exclude" or flaw not in KEPT_OUT_FLAWS

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([SPLITS.index(self.split), self.seed, index, stream])

    def _wanted(self, kind: str, *scenes: Scene) -> bool:
        if self.kept_out == "include":
            return True
        odd = kind in KEPT_OUT_KINDS or any(_has_kept_out_pair(scene) for scene in scenes)
        return odd == (self.kept_out == "only")

    def _changes(self, kind: str, source: Scene, rng: np.random.Generator) -> tuple[Change, ...] | None:
        if kind != "two_step":
            change = draw_change(kind, source, rng)
            return None if change is None else (change,)
        kinds = [kind for kind in KINDS[:-1] if self.kept_out != "exclude" or kind not in KEPT_OUT_KINDS]
        first, second = (kinds[i] for i in rng.permutation(len(kinds))[:2])
        a = draw_change(first, source, rng)
        b = draw_change(second, source, rng)
        return (a, b) if a and b and _independent(a, b) and _nameable(apply(source, (a, b))) else None

    def _flawed(self, task: Task, flaw: str, rng: np.random.Generator) -> Candidate | None:
        if flaw in ARTEFACTS:
            return self._artefact(task, flaw, rng)
        scene = SCENE_FLAWS[flaw](task.source, task.target, task.changes, rng)
        if scene is None or not _nameable(scene):
            return None
        if self.kept_out == "exclude" and _has_kept_out_pair(scene):
            return None
        if rng.random() >= _ALSO_DAMAGED:
            return self._candidate(task, flaw, scene, rng)
        artefact = pick([name for name in ARTEFACTS if self._allows(name)], rng)
        return self._candidate(task, flaw, scene, rng, artefact, rng.random())

    def _artefact(self, task: Task, artefact: str, rng: np.random.Generator) -> Candidate | None:
        """A right edit, damaged strongly enough to fail by quality; None where no strength does."""
        for strength in np.linspace(rng.random(), 1, 4):
            candidate = self._candidate(task, artefact, task.target, rng, artefact, float(strength))
            if candidate.truth.quality < _FAILED_QUALITY:
                return candidate
        return None

    def _candidate(
        self,
        task: Task,
        flaw: str,
        scene: Scene,
        rng: np.random.Generator,
        artefact: str | None = None,
        strength: float = 0.0,
    ) -> Candidate:
        """Render a scene, perhaps shifted by a pixel, perhaps damaged, and label it."""
        if rng.random() < 0.1:
            scene = jittered(scene, rng)
        image, left = render(scene, self.size), 0.0
        if artefact is not None:
            clean, image = image, damage(image, artefact, strength, rng)
            left = residual(_native(image), _native(clean))
        return Candidate(image, scene, flaw, truth(task.source, task.changes, Reading(scene, left)))


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, by its content."""
    bucket = int.from_bytes(blake2b(scene.canonical.encode(), digest_size=4).digest(), "big") % 100
    return "train" if bucket < 90 else "validation" if bucket < 95 else "test"


def _has_kept_out_pair(scene: Scene) -> bool:
    return any(shape.pair in KEPT_OUT_PAIRS for shape in scene.shapes)


def _nameable(scene: Scene) -> bool:
    """No two shapes of the same shape and colour, and not too many of them to leave a place free for each."""
    return len({shape.pair for shape in scene.shapes}) == len(scene.shapes) and len(scene.shapes) <= 5


def _independent(first: Change, second: Change) -> bool:
    """Two changes that are about different things, so that their order does not matter."""

    def things(change: Change) -> set[int | str]:
        match change:
            case SetBackground():
                return {"background"}
            case Add(place=place):
                return {place}
            case Move(shape, place):
                return {shape.place, place}
            case _:
                return {change.target.place}

    return not things(first) & things(second)


def _native(image: np.ndarray) -> np.ndarray:
    """The image at 64x64, where residuals are measured."""
    if image.shape[0] == 64:
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC))
