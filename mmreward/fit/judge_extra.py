"""Outputs of a real editor as training groups: rows that `mmreward edit` wrote, labelled by the oracle.

Rendered candidates look clean where an editor's outputs are smeared, half there, or both things at once; a judge that
has only seen the former is easily fooled by the latter. A row needs `source`, `edited` (paths, relative to the file)
and `instruction`. Rows of one source and instruction make a group. What the oracle cannot read is left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmreward.batch import read_rows
from mmreward.edit import Edit, ImageError, ImageName
from mmreward.fit.judge_data import Group
from mmreward.shapes import LanguageError, parse, read, truth
from mmreward.shapes.language import apply
from mmreward.training import ConfigError

__all__ = ["Outputs", "read_outputs"]


@dataclass(frozen=True)
class Outputs:
    """Groups of labelled edits, and how many edits there were and could not be labelled."""

    groups: list[Group]
    edits: int
    unreadable: int


def read_outputs(place: Path) -> Outputs:
    """All rows of a JSONL file, or of the JSONL files of a folder."""
    files = [place] if place.is_file() else sorted(place.glob("*.jsonl")) if place.is_dir() else []
    if not files:
        raise ConfigError(
            f"extra: {place} is neither a JSONL file nor a folder that holds one; `mmreward edit` writes them"
        )
    gathered: dict[str, list[Edit]] = {}
    total = 0
    for edit in (edit for file in files for edit in _edits(file)):
        total += 1
        if edit is not None and _opens(edit):
            gathered.setdefault(edit.group, []).append(edit)
    groups = [group for group in map(_group, gathered.values()) if group is not None]
    lost = total - sum(len(group.images) for group in groups)
    if not groups:
        raise ConfigError(f"extra: none of the {total} edits in {place} shows a scene of the shapes world")
    return Outputs(groups, total, lost)


def _edits(file: Path) -> list[Edit | None]:
    """The edits of a file, None for a row that is none."""
    try:
        return [None if row.error else row.edit() for row in read_rows(file)]
    except (ValueError, OSError) as error:
        raise ConfigError(f"extra: {error}") from None


def _opens(edit: Edit) -> bool:
    try:
        edit.image("source"), edit.image("edited")
    except ImageError:
        return False
    return True


def _group(edits: Sequence[Edit]) -> Group | None:
    instruction = edits[0].instruction
    pixels = np.stack([_pixels(edits[0], "source"), *(_pixels(edit, "edited") for edit in edits)])
    first, *rest = read(pixels)
    if first.scene is None:
        return None
    try:
        changes = parse(instruction, first.scene)
    except LanguageError:
        return None
    good = [(image, reading) for image, reading in zip(pixels[1:], rest, strict=True) if reading.scene is not None]
    if not good:
        return None
    truths = [truth(first.scene, changes, reading) for _, reading in good]
    return Group(
        instruction,
        first.scene,
        apply(first.scene, changes),
        changes,
        pixels[0],
        [image for image, _ in good],
        [reading.scene for _, reading in good if reading.scene is not None],
        np.asarray([(t.following, t.preservation, t.quality) for t in truths], dtype=np.float32),
    )


def _pixels(edit: Edit, name: ImageName) -> np.ndarray:
    image = edit.image(name)
    return np.asarray(image if image.size == (64, 64) else image.resize((64, 64)))
