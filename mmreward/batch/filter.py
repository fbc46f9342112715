"""The best part of a noisy set of triplets (source, instruction, target), chosen by a reward.

The target is scored as an edit of the source. EditReward (Wu et al., 2025, https://arxiv.org/abs/2509.26346) filters
training data so. What comes out is a table of triplets again, with score, dimensions and feedback (`rationale`) beside
each, which a training recipe can name as its data.
"""

__all__ = ["best", "check_images", "read_triplets", "triplets"]

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmreward.batch.inputs import read_rows
from mmreward.batch.rows import IMAGE_FIELDS, TEXT_FIELDS, Row, Rows
from mmreward.batch.run import Scored
from mmreward.edit import ImageLike
from mmreward.score import Score


def read_triplets(path: Path, mapping: Mapping[str, str]) -> Rows:
    """Rows whose edited image is the column `edited`, or `target` where there is none of that name."""
    return read_rows(path, mapping, instead={"edited": "target"})


def best(scores: Sequence[Score], share: float) -> list[bool]:
    """Which rows belong to the best `share` of those that have a score: at least one, the earlier one of equals."""
    scored = [place for place, score in enumerate(scores) if score.ok]
    order = sorted(scored, key=lambda place: -scores[place].overall)
    kept = set(order[: max(int(share * len(scored)), 1)])
    return [place in kept for place in range(len(scores))]


def triplets(rows: Rows, scores: Sequence[Score], kept: Sequence[bool], every: bool, folder: Path) -> list[Scored]:
    """Kept rows, or every one, ready to be written into a file in `folder`: the triplet itself is among the columns,
    `kept` too, and paths are relative to `folder`.
    """
    return [
        Scored(replace(row, meta=_columns(row, keep, folder)), score)
        for row, score, keep in zip(rows, scores, kept, strict=True)
        if keep or every
    ]


def check_images(rows: Rows, out: Path) -> None:
    """Refuse, before any work is done, a format that cannot hold the images of `rows`."""
    inside = next((name for row in rows for name in _inside(row)), None) if out.suffix.lower() == ".jsonl" else None
    if inside:
        raise ValueError(
            f"{rows.where} holds its images itself (column of {inside!r}), which JSONL cannot; write {out.stem}.parquet"
        )


def _inside(row: Row) -> Iterator[str]:
    return (name for name, image in row.images.items() if isinstance(image, bytes))


def _columns(row: Row, kept: bool, folder: Path) -> dict[str, Any]:
    texts = {name: row.texts[name] for name in TEXT_FIELDS if name in row.texts}
    images = {
        "target" if name == "edited" and "target" not in row.images else name: _place(row.images[name], folder)
        for name in IMAGE_FIELDS
        if name in row.images
    }
    own: dict[str, Any] = {**texts, **images, "kept": kept}
    return own | {(f"input_{name}" if name in own else name): value for name, value in row.meta.items()}


def _place(image: ImageLike, folder: Path) -> Any:
    if isinstance(image, str | os.PathLike):
        return os.path.relpath(Path(image).resolve(), folder.resolve())
    return image
