"""Scenes of the shapes world: what is in an image, as exact data.

A scene is a 3x3 grid of places, 1-4 coloured shapes on it, and a background. Two scenes are the same scene when
their `canonical` texts agree; `jitter` (a shift of at most one 1/64 of the image) is nuisance, not content.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

__all__ = [
    "BACKGROUND_COLOURS",
    "BACKGROUND_KINDS",
    "COLOURS",
    "KEPT_OUT_PAIRS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "WORLD_VERSION",
    "Background",
    "Scene",
    "Shape",
    "background",
    "grid",
]

WORLD_VERSION = "shapes/1"
"""Changes whenever an image, a label or a threshold of the world changes."""

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 30),
    "yellow": (250, 222, 60),
    "green": (46, 160, 67),
    "cyan": (64, 205, 215),
    "blue": (45, 90, 225),
    "purple": (135, 55, 190),
    "pink": (247, 135, 190),
}
SIZES = ("small", "large")
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
BACKGROUND_KINDS = ("plain", "gradient", "striped", "dotted")
BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (226, 226, 226),
    "grey": (145, 145, 145),
    "black": (42, 42, 44),
    "beige": (214, 190, 150),
    "brown": (112, 80, 56),
    "navy": (30, 38, 92),
}
KEPT_OUT_PAIRS = frozenset({("star", "purple"), ("cross", "orange"), ("triangle", "cyan"), ("square", "pink")})
"""Shape-colour pairs that no bundled judge has seen in training."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: its name, colour and size by name, its place 0..8 (row by row), its jitter in 1/64 of the image."""

    shape: str
    colour: str
    size: str
    place: int
    jitter: tuple[int, int] = (0, 0)

    @property
    def pair(self) -> tuple[str, str]:
        return self.shape, self.colour

    @property
    def look(self) -> tuple[str, str, str]:
        """What the shape is, wherever it stands."""
        return self.shape, self.colour, self.size


@dataclass(frozen=True, slots=True)
class Background:
    """The background: kind and colour by name."""

    kind: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """Shapes (at most one a place, sorted by place) on a background."""

    shapes: tuple[Shape, ...]
    background: Background

    def __post_init__(self) -> None:
        object.__setattr__(self, "shapes", tuple(sorted(self.shapes, key=lambda shape: shape.place)))
        if len({shape.place for shape in self.shapes}) != len(self.shapes):
            raise ValueError(f"two shapes at one place: {self.shapes}")

    @cached_property
    def canonical(self) -> str:
        """The scene's content as text, without jitter: equal texts, equal scenes."""
        parts = [f"{s.place}:{s.size} {s.colour} {s.shape}" for s in self.shapes]
        return "; ".join([*parts, f"{self.background.kind} {self.background.colour}"])

    def at(self, place: int) -> Shape | None:
        """The shape at a place 0..8, or None."""
        return next((shape for shape in self.shapes if shape.place == place), None)

    @property
    def free(self) -> list[int]:
        """Places without a shape."""
        taken = {shape.place for shape in self.shapes}
        return [place for place in range(len(PLACES)) if place not in taken]

    def without(self, shape: Shape) -> Scene:
        return replace(self, shapes=tuple(s for s in self.shapes if s.place != shape.place))

    def having(self, shape: Shape) -> Scene:
        """The scene with `shape` at its place, in place of whatever stood there."""
        return replace(self, shapes=(*self.without(shape).shapes, shape))

    def on(self, background: Background) -> Scene:
        return replace(self, background=background)

    def caption(self, variant: int = 0) -> str:
        """The scene in words; `variant` (any integer) picks the wording and the order of the shapes.

        >>> Scene((Shape("circle", "red", "small", 0),), Background("plain", "grey")).caption()
        'a small red circle at the top left on a plain grey background'
        """
        shapes = list(self.shapes)
        if shapes and variant:
            turn = variant % len(shapes)
            shapes = shapes[turn:] + shapes[:turn]
        if variant % 3 == 2:
            texts = [f"{PLACES[s.place]} {_article(s.colour)} {s.colour} {s.shape}, {s.size}" for s in shapes]
            ground = f"{self.background.kind} {self.background.colour} background"
            return "; ".join([*texts, ground])
        texts = [f"a {s.size} {s.colour} {s.shape} {_at(s.place)}" for s in shapes]
        listed = _listed(texts) if texts else "nothing"
        ground = f"{_article(self.background.kind)} {self.background.kind} {self.background.colour} background"
        return f"{listed} on {ground}" if variant % 3 == 0 else f"on {ground}: {listed}"


def grid(scene: Scene) -> np.ndarray:
    """Dense labels: int64 [9, 3] of shape (0 empty, 1..6), colour (0 empty, 1..8), size (0 empty, 1 small, 2 large)."""
    labels = np.zeros((len(PLACES), 3), dtype=np.int64)
    for s in scene.shapes:
        labels[s.place] = 1 + SHAPES.index(s.shape), 1 + list(COLOURS).index(s.colour), 1 + SIZES.index(s.size)
    return labels


def background(scene: Scene) -> tuple[int, int]:
    """The background's kind (0..3) and colour (0..5) as indices."""
    return BACKGROUND_KINDS.index(scene.background.kind), list(BACKGROUND_COLOURS).index(scene.background.colour)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _at(place: int) -> str:
    name = PLACES[place]
    return f"in the {name}" if name == "centre" else f"on the {name}" if name in ("left", "right") else f"at the {name}"


def _listed(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]
