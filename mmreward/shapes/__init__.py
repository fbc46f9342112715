"""A procedural world of edits whose truth is known: scenes, instructions, flawed edits, and an oracle."""

__all__ = [
    "BACKGROUND_COLOURS",
    "BACKGROUND_KINDS",
    "COLOURS",
    "FLAWS",
    "KINDS",
    "PLACES",
    "READING",
    "SHAPES",
    "SIZES",
    "WORLD_VERSION",
    "Background",
    "Candidate",
    "LanguageError",
    "Reading",
    "Scene",
    "Shape",
    "Task",
    "Truth",
    "World",
    "background",
    "grid",
    "parse",
    "read",
    "render",
    "truth",
]

from mmreward.shapes.flaws import FLAWS
from mmreward.shapes.language import KINDS, LanguageError, parse
from mmreward.shapes.oracle import Truth, truth
from mmreward.shapes.read import READING, Reading, read
from mmreward.shapes.render import render
from mmreward.shapes.scene import (
    BACKGROUND_COLOURS,
    BACKGROUND_KINDS,
    COLOURS,
    PLACES,
    SHAPES,
    SIZES,
    WORLD_VERSION,
    Background,
    Scene,
    Shape,
    background,
    grid,
)
from mmreward.shapes.world import Candidate, Task, World
