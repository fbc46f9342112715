"""Flawed edits: for each kind of flaw, a scene that has it.

A scene flaw returns the scene that a bad editor would have drawn, or None where the flaw does not fit the task. An
artefact damages the pixels of a right edit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from mmreward.shapes.language import Add, Change, Move, Recolour, Replace, Resize, SetBackground, apply
from mmreward.shapes.sample import draw_change, other, pick
from mmreward.shapes.scene import BACKGROUND_COLOURS, BACKGROUND_KINDS, COLOURS, SHAPES, Background, Scene

__all__ = ["ARTEFACTS", "FLAWS", "KEPT_OUT_FLAWS", "SCENE_FLAWS", "damage"]

_ONE_CHANGE_KINDS = ("recolour", "remove", "add", "replace", "move", "background")


def _untouched(source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator) -> Scene | None:
    return source


def _wrong_object(source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator) -> Scene | None:
    """The right change, made to another shape."""
    change = pick(changes, rng)
    if isinstance(change, Add | SetBackground):
        return None
    others = [shape for shape in source.shapes if shape.place != change.target.place]
    if not others:
        return None
    victim = pick(others, rng)
    if isinstance(change, Recolour) and victim.colour == change.colour:
        return None
    if isinstance(change, Replace) and victim.shape == change.shape:
        return None
    if isinstance(change, Resize) and victim.size == change.size:
        return None
    rest = tuple(c for c in changes if c is not change)
    return apply(source, (*rest, replace(change, target=victim)))


def _wrong_value(source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator) -> Scene | None:
    """The right shape or background, but another colour, shape or place than was asked for."""
    change = pick(changes, rng)
    rest = tuple(c for c in changes if c is not change)
    free = [place for place in target.free if source.at(place) is None]
    match change:
        case Recolour(shape, colour):
            wrong: Change = Recolour(shape, other(tuple(COLOURS), [colour, shape.colour], rng))
        case Replace(shape, name):
            wrong = Replace(shape, other(SHAPES, [name, shape.shape], rng))
        case Move(shape, _):
            wrong = Move(shape, pick(free, rng))
        case Add(name, colour, size, place):
            wrong = pick(
                (
                    Add(name, other(tuple(COLOURS), [colour], rng), size, place),
                    Add(other(SHAPES, [name], rng), colour, size, place),
                    Add(name, colour, size, pick(free, rng)),
                ),
                rng,
            )
        case SetBackground(colour, kind):
            wrong = SetBackground(
                other(tuple(BACKGROUND_COLOURS), [colour, source.background.colour], rng) if colour else None,
                other(BACKGROUND_KINDS, [kind, source.background.kind], rng) if kind else None,
            )
        case _:
            return None
    return apply(source, (*rest, wrong))


def _half_done(source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator) -> Scene | None:
    """One of two changes; a moved shape left behind at its old place; one of two attributes of a background."""
    if len(changes) == 2:
        return apply(source, (pick(changes, rng),))
    match changes[0]:
        case Move(shape, _):
            return target.having(shape)
        case SetBackground(str(colour), str(kind)):
            return apply(source, (pick((SetBackground(colour, None), SetBackground(None, kind)), rng),))
    return None


def _extra_change(source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator) -> Scene | None:
    """Everything asked for, and something else changed in a shape that nobody named (or a shape added)."""
    named = {place for change in changes for place in _places(change)}
    spare = [shape.place for shape in target.shapes if shape.place in named]
    kind = pick(("recolour", "remove", "replace", "add", "move"), rng)
    change = draw_change(kind, target, rng, spare) or draw_change("add", target, rng)
    return apply(target, (change,)) if change else None


def _places(change: Change) -> tuple[int, ...]:
    match change:
        case Add(place=place):
            return (place,)
        case Move(shape, place):
            return (shape.place, place)
        case SetBackground():
            return ()
        case _:
            return (change.target.place,)


def _background_damage(
    source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator
) -> Scene | None:
    """Everything asked for, on a background that nobody asked for."""
    if any(isinstance(change, SetBackground) for change in changes):
        return None
    old = target.background
    colour = other(tuple(BACKGROUND_COLOURS), [old.colour], rng)
    kind = other(BACKGROUND_KINDS, [old.kind], rng)
    return target.on(pick((Background(old.kind, colour), Background(kind, old.colour), Background(kind, colour)), rng))


def _other_instruction(
    source: Scene, target: Scene, changes: tuple[Change, ...], rng: np.random.Generator
) -> Scene | None:
    """The right answer to another instruction."""
    change = draw_change(pick(_ONE_CHANGE_KINDS, rng), source, rng)
    edited = apply(source, (change,)) if change else target
    return None if edited.canonical == target.canonical else edited


SceneFlaw = Callable[[Scene, Scene, "tuple[Change, ...]", np.random.Generator], "Scene | None"]
SCENE_FLAWS: dict[str, SceneFlaw] = {
    "untouched": _untouched,
    "wrong_object": _wrong_object,
    "wrong_value": _wrong_value,
    "half_done": _half_done,
    "extra_change": _extra_change,
    "background_damage": _background_damage,
    "other_instruction": _other_instruction,
}


def _blur(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(
        Image.fromarray(image).filter(ImageFilter.GaussianBlur((0.6 + 1.6 * strength) * image.shape[0] / 64))
    )


def _noise(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    noisy = image + rng.normal(0, 255 * (0.02 + 0.13 * strength), image.shape)
    return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)


def _blocks(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blocks of a sixteenth of the image, mixed with the image by strength."""
    size = image.shape[0]
    block = max(size // 16, 1)
    small = image.reshape(size // block, block, size // block, block, 3).mean(axis=(1, 3))
    coarse = small.repeat(block, axis=0).repeat(block, axis=1)
    share = 0.4 + 0.6 * strength
    return ((1 - share) * image + share * coarse + 0.5).astype(np.uint8)


ARTEFACTS: dict[str, Callable[[np.ndarray, float, np.random.Generator], np.ndarray]] = {
    "blur": _blur,
    "noise": _noise,
    "blocks": _blocks,
}
FLAWS = ("none", *SCENE_FLAWS, *ARTEFACTS)
KEPT_OUT_FLAWS = frozenset({"other_instruction", "blocks"})
"""Flaws that no bundled judge has seen in training."""


def damage(image: np.ndarray, artefact: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An image uint8 [H, W, 3] with an artefact of strength in [0, 1]."""
    return ARTEFACTS[artefact](image, strength, rng)
