"""Instructions of the shapes world: changes, the words for them, and back.

One table of templates serves both directions: `say` fills a template, `parse` matches all of them. So
`parse(say(changes), scene) == changes` for whatever the world can say, and a text that is not of this world raises
`LanguageError` instead of being guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

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

__all__ = [
    "KINDS",
    "Add",
    "Change",
    "LanguageError",
    "Move",
    "Recolour",
    "Remove",
    "Replace",
    "Resize",
    "SetBackground",
    "apply",
    "parse",
    "say",
]


class LanguageError(ValueError):
    """The text is not an instruction of this world, or does not fit the scene."""


@dataclass(frozen=True, slots=True)
class Recolour:
    target: Shape
    colour: str
    kind = "recolour"


@dataclass(frozen=True, slots=True)
class Remove:
    target: Shape
    kind = "remove"


@dataclass(frozen=True, slots=True)
class Add:
    """A new shape; `size` None leaves the size open."""

    shape: str
    colour: str
    size: str | None
    place: int
    kind = "add"


@dataclass(frozen=True, slots=True)
class Replace:
    target: Shape
    shape: str
    kind = "replace"


@dataclass(frozen=True, slots=True)
class Move:
    target: Shape
    place: int
    kind = "move"


@dataclass(frozen=True, slots=True)
class Resize:
    target: Shape
    size: str
    kind = "resize"


@dataclass(frozen=True, slots=True)
class SetBackground:
    """A new background colour, a new kind, or both; None leaves that one as it is."""

    colour: str | None
    background: str | None
    kind = "background"


Change = Recolour | Remove | Add | Replace | Move | Resize | SetBackground
KINDS = ("recolour", "remove", "add", "replace", "move", "resize", "background", "two_step")

_TEMPLATES: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make {object} {colour}",
        "paint {object} {colour}",
        "turn {object} {colour}",
        "recolour {object} to {colour}",
        "change the colour of {object} to {colour}",
        "{object} should be {colour}",
    ),
    "remove": (
        "remove {object}",
        "delete {object}",
        "erase {object}",
        "take away {object}",
        "get rid of {object}",
        "{object} should be gone",
    ),
    "add": ("add {new} {at}", "put {new} {at}", "draw {new} {at}", "insert {new} {at}", "there should be {new} {at}"),
    "replace": (
        "replace {object} with {shape}",
        "turn {object} into {shape}",
        "change {object} into {shape}",
        "swap {object} for {shape}",
    ),
    "move": ("move {object} to {place}", "shift {object} to {place}", "bring {object} to {place}", "put {object} {at}"),
    "resize": ("make {object} {size}", "{resize} {object}", "{object} should be {size}"),
    "background": (
        "change the background to {ground}",
        "make the background {ground}",
        "turn the background {ground}",
        "the background should be {ground}",
        "use a {ground} background",
    ),
}
_JOINTS = (
    "{first} and {second}",
    "{first}, then {second}",
    "{first} and also {second}",
    "first {first}, then {second}",
)
_BIGGER = {"small": ("smaller", "shrink"), "large": ("larger", "enlarge")}


def apply(scene: Scene, changes: Sequence[Change], size: str = "large") -> Scene:
    """The scene after the changes; `size` is for an `Add` that leaves it open."""
    for change in changes:
        match change:
            case Recolour(target, colour):
                scene = scene.having(replace(target, colour=colour))
            case Remove(target):
                scene = scene.without(target)
            case Add(shape, colour, asked, place):
                scene = scene.having(Shape(shape, colour, asked or size, place))
            case Replace(target, shape):
                scene = scene.having(replace(target, shape=shape))
            case Move(target, place):
                scene = scene.without(target).having(replace(target, place=place))
            case Resize(target, new_size):
                scene = scene.having(replace(target, size=new_size))
            case SetBackground(colour, kind):
                old = scene.background
                scene = scene.on(Background(kind or old.kind, colour or old.colour))
    return scene


def say(changes: Sequence[Change], scene: Scene, rng: np.random.Generator) -> str:
    """One or two changes to `scene` in varied English."""
    texts = [_say_one(change, scene, rng) for change in changes]
    if len(texts) == 2:
        text = _pick(_JOINTS, rng).format(first=texts[0], second=texts[1])
    else:
        (text,) = texts
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.3 else text


def parse(instruction: str, scene: Scene) -> tuple[Change, ...]:
    """The changes that an instruction asks for, given the source scene.

    Raises `LanguageError` for a text that no template says, or that names nothing, or more than one thing, in the
    scene.
    """
    text = " ".join(instruction.lower().split()).rstrip(".")
    problem: LanguageError | None = None
    for parts in _splits(text):
        try:
            return tuple(_parse_one(part, scene) for part in parts)
        except LanguageError as error:
            problem = problem or error
    raise problem or LanguageError("the instruction is empty")


def _say_one(change: Change, scene: Scene, rng: np.random.Generator) -> str:
    words: dict[str, str] = {}
    match change:
        case Recolour(target, colour):
            words = {"object": _object(target, scene, rng), "colour": colour}
        case Remove(target):
            words = {"object": _object(target, scene, rng)}
        case Add(shape, colour, size, place):
            looks = " ".join(word for word in (size, colour, shape) if word)
            words = {"new": _with_article(looks), "at": _pick(_at_phrases(place), rng)}
        case Replace(target, shape):
            words = {"object": _object(target, scene, rng), "shape": _with_article(shape)}
        case Move(target, place):
            words = {"object": _object(target, scene, rng), "place": f"the {PLACES[place]}"}
            words["at"] = _pick(_at_phrases(place), rng)
        case Resize(target, size):
            adjective, verb = _BIGGER[size]
            words = {"object": _object(target, scene, rng), "size": adjective, "resize": verb}
        case SetBackground(colour, kind):
            words = {"ground": " ".join(word for word in (kind, colour) if word)}
    return _pick(_TEMPLATES[change.kind], rng).format(**words)


def _object(target: Shape, scene: Scene, rng: np.random.Generator) -> str:
    """A phrase that names one shape of the scene and no other."""
    others = [shape for shape in scene.shapes if shape != target]
    phrases = [f"{target.colour} {target.shape}", f"{target.size} {target.colour} {target.shape}"]
    if all(other.shape != target.shape for other in others):
        phrases.append(target.shape)
    if all(other.colour != target.colour for other in others):
        phrases.append(f"{target.colour} shape")
    return "the " + _pick(phrases, rng)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _at_phrases(place: int) -> tuple[str, ...]:
    name = PLACES[place]
    if name == "centre":
        return ("in the centre",)
    if " " in name:
        return (f"at the {name}", f"in the {name} corner")
    return (f"on the {name}",) if name in ("left", "right") else (f"at the {name}",)


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    colour, shape, size = "|".join(COLOURS), "|".join(SHAPES), "|".join(SIZES)
    places = "|".join(sorted(PLACES, key=len, reverse=True))
    ground_kind, ground_colour = "|".join(BACKGROUND_KINDS), "|".join(BACKGROUND_COLOURS)
    pieces = {
        "object": rf"the (?:(?P<o_size>{size}) )?(?:(?P<o_colour>{colour}) )?(?P<o_shape>{shape}|shape)",
        "new": rf"an? (?:(?P<n_size>{size}) )?(?P<n_colour>{colour}) (?P<n_shape>{shape})",
        "at": rf"(?:at|on|in) the (?P<at>{places})(?: corner)?",
        "place": rf"the (?P<place>{places})",
        "shape": rf"an? (?P<shape>{shape})",
        "colour": rf"(?P<colour>{colour})",
        "size": r"(?P<size>smaller|larger)",
        "resize": r"(?P<resize>shrink|enlarge)",
        "ground": rf"(?:(?P<g_kind>{ground_kind})(?: (?P<g_colour>{ground_colour}))?|(?P<g_only>{ground_colour}))",
    }
    return [(kind, re.compile(template.format(**pieces))) for kind, texts in _TEMPLATES.items() for template in texts]


def _splits(text: str) -> list[list[str]]:
    """The text as one instruction, then as two, at every joint it may have been put together with."""
    parts = [[text]] if text else []
    body = text.removeprefix("first ")
    for joint in (" and also ", " and ", ", then "):
        for found in re.finditer(re.escape(joint), body):
            parts.append([body[: found.start()], body[found.end() :]])
    return parts


def _parse_one(text: str, scene: Scene) -> Change:
    for kind, pattern in _patterns():
        found = pattern.fullmatch(text)
        if found:
            return _change(kind, found.groupdict(), scene)
    raise LanguageError(f"{text!r} is not an instruction of the shapes world, such as 'make the red circle blue'")


def _change(kind: str, words: dict[str, str | None], scene: Scene) -> Change:
    target = _find(words, scene) if "o_shape" in words else None
    place = words.get("place") or words.get("at")
    match kind:
        case "background":
            return SetBackground(words["g_colour"] or words["g_only"], words["g_kind"])
        case "add":
            return Add(str(words["n_shape"]), str(words["n_colour"]), words["n_size"], PLACES.index(str(place)))
    assert target is not None
    match kind:
        case "recolour":
            return Recolour(target, str(words["colour"]))
        case "remove":
            return Remove(target)
        case "replace":
            return Replace(target, str(words["shape"]))
        case "move":
            return Move(target, PLACES.index(str(place)))
        case _:
            smaller = "smaller" in words.values() or "shrink" in words.values()
            return Resize(target, "small" if smaller else "large")


def _find(words: dict[str, str | None], scene: Scene) -> Shape:
    found = [
        shape
        for shape in scene.shapes
        if words["o_shape"] in ("shape", shape.shape)
        and words["o_colour"] in (None, shape.colour)
        and words["o_size"] in (None, shape.size)
    ]
    if len(found) == 1:
        return found[0]
    name = " ".join(word for word in (words["o_size"], words["o_colour"], words["o_shape"]) if word)
    raise LanguageError(f"the scene has {len(found)} of 'the {name}', expected one: {scene.canonical}")
