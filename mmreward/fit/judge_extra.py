"""Outputs of a real editor as training groups: rows that `mmreward edit` wrote, labelled by the oracle.

Rendered candidates look clean where an editor's outputs are smeared, half there, or both things at once; a judge that
has only seen the former is easily fooled by the latter. A row needs `source`, `edited` (paths, relative to the file)
and `instruction`. Rows of one source and instruction make a group. What the oracle cannot read is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmreward.edit import open_image
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
    gathered: dict[tuple[Path, str], list[Path]] = {}
    for file in files:
        for source, instruction, edited in _rows(file):
            gathered.setdefault((source, instruction), []).append(edited)
    groups, total, lost = [], 0, 0
    for (source, instruction), results in gathered.items():
        found = _group(source, instruction, results)
        total += len(results)
        lost += len(results) - (len(found.images) if found else 0)
        groups += [found] if found else []
    if not groups:
        raise ConfigError(f"extra: none of the {total} edits in {place} shows a scene of the shapes world")
    return Outputs(groups, total, lost)


def _rows(file: Path) -> Iterator[tuple[Path, str, Path]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            source, instruction, edited = row["source"], row["instruction"], row["edited"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{file}, line {number}: needs source, instruction and edited ({error!r})") from None
        yield file.parent / source, instruction, file.parent / edited


def _group(source: Path, instruction: str, edited: list[Path]) -> Group | None:
    pixels = np.stack([_pixels(path) for path in (source, *edited)])
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


def _pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    return np.asarray(image if image.size == (64, 64) else image.resize((64, 64)))
