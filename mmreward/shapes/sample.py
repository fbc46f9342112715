"""Drawing scenes and changes at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mmreward.shapes.language import Add, Change, Move, Recolour, Remove, Replace, Resize, SetBackground
from mmreward.shapes.scene import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    Background,
    Scene,
    Shape,
)

__all__ = ["draw_change", "draw_scene", "jittered", "other", "pick"]

_COLOUR_NAMES = tuple(COLOURS)
_GROUND_NAMES = tuple(BACKGROUND_COLOURS)


def pick(options: Sequence, rng: np.random.Generator):
    """One of the options, uniformly."""
    return options[int(rng.random() * len(options))]


def other(options: Sequence[str], than: Sequence[str], rng: np.random.Generator) -> str:
    """One of the options that is not among `than`."""
    return pick([option for option in options if option not in than], rng)


def draw_scene(rng: np.random.Generator) -> Scene:
    """1-4 shapes, no two of the same shape and colour, each shifted by at most one pixel."""
    count = 1 + int(rng.random() * 4)
    places = rng.permutation(len(PLACES))[:count]
    shapes: list[Shape] = []
    while len(shapes) < count:
        pair = pick(SHAPES, rng), pick(_COLOUR_NAMES, rng)
        if pair not in {shape.pair for shape in shapes}:
            shapes.append(Shape(*pair, pick(SIZES, rng), int(places[len(shapes)]), _jitter(rng)))
    return Scene(tuple(shapes), Background(pick(BACKGROUND_KINDS, rng), pick(_GROUND_NAMES, rng)))


def jittered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene, each shape shifted anew."""
    return Scene(tuple(Shape(s.shape, s.colour, s.size, s.place, _jitter(rng)) for s in scene.shapes), scene.background)


def _jitter(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.random() * 3) - 1, int(rng.random() * 3) - 1


def draw_change(kind: str, scene: Scene, rng: np.random.Generator, spare: Sequence[int] = ()) -> Change | None:
    """A change of a kind that fits the scene, or None where none does.

    `spare` names places of shapes that the change must not be about.
    """
    targets = [shape for shape in scene.shapes if shape.place not in spare]
    if kind in _OF_ONE_SHAPE and targets:
        return _OF_ONE_SHAPE[kind](pick(targets, rng), scene, rng)
    if kind == "add" and len(scene.shapes) < 5:
        return _add(scene, rng)
    if kind == "background":
        return _background(scene.background, rng)
    return None


def _recolour(target: Shape, scene: Scene, rng: np.random.Generator) -> Change:
    taken = [shape.colour for shape in scene.shapes if shape.shape == target.shape]
    return Recolour(target, other(_COLOUR_NAMES, taken, rng))


def _replace(target: Shape, scene: Scene, rng: np.random.Generator) -> Change:
    taken = [shape.shape for shape in scene.shapes if shape.colour == target.colour]
    return Replace(target, other(SHAPES, taken, rng))


_OF_ONE_SHAPE: dict[str, Callable[[Shape, Scene, np.random.Generator], Change]] = {
    "recolour": _recolour,
    "remove": lambda target, scene, rng: Remove(target),
    "replace": _replace,
    "move": lambda target, scene, rng: Move(target, pick(scene.free, rng)),
    "resize": lambda target, scene, rng: Resize(target, other(SIZES, [target.size], rng)),
}


def _add(scene: Scene, rng: np.random.Generator) -> Change:
    taken = {shape.pair for shape in scene.shapes}
    while True:
        pair = pick(SHAPES, rng), pick(_COLOUR_NAMES, rng)
        if pair not in taken:
            return Add(*pair, pick((None, *SIZES), rng), pick(scene.free, rng))


def _background(old: Background, rng: np.random.Generator) -> Change:
    colour = other(_GROUND_NAMES, [old.colour], rng)
    kind = other(BACKGROUND_KINDS, [old.kind], rng)
    return pick((SetBackground(colour, None), SetBackground(None, kind), SetBackground(colour, kind)), rng)
