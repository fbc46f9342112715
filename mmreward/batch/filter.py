"""The best part of a noisy set of triplets (source, instruction, target), chosen by a reward.

The target is scored as an edit of the source. EditReward (Wu et al., 2025, https://arxiv.org/abs/2509.26346) filters
training data so. What comes out is a table of triplets again, with score, dimensions and feedback (`rationale`) beside
each, which a training recipe can name as its data.
"""

__all__ = ["best", "check_images", "read_triplets", "triplets"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmreward.batch.images import check_images, image_cells
from mmreward.batch.inputs import read_rows
from mmreward.batch.rows import TEXT_FIELDS, Row, Rows
from mmreward.batch.run import Scored
from mmreward.score import Score


def read_triplets(path: Path, mapping: Mapping[str, str]) -> Rows:
    """Rows whose edited image is the column `edited`, or `target` where there is none of that name. A table with both
    is refused where `mapping` does not say which is meant.
    """
    rows = read_rows(path, mapping, instead={"edited": "target"})
    if "edited" not in mapping and {"edited", "target"} <= set(rows.columns):
        raise ValueError(
            f"{path} has the columns edited and target; say which of them is to be scored and kept: "
            "--map edited=target, or --map edited=edited (target is then the known good result that rewards may see)"
        )
    return rows


def best(scores: Sequence[Score], share: float) -> list[bool]:
    """Which rows belong to the best `share` of those that have a score (rounded to the nearest number of rows, at least
    one), the earlier one of equals.
    """
    scored = [place for place, score in enumerate(scores) if score.ok and not math.isnan(score.overall)]
    order = sorted(scored, key=lambda place: -scores[place].overall)
    kept = set(order[: max(round(share * len(scored)), 1)])
    return [place in kept for place in range(len(scores))]


def triplets(rows: Rows, scores: Sequence[Score], kept: Sequence[bool], every: bool, folder: Path) -> list[Scored]:
    """Kept rows, or every one, ready to be written into a file in `folder`: the triplet itself is among the columns,
    `kept` too, and paths are relative to `folder`. The scored image is in the column `target`, unless the table had one
    beside it.
    """
    scored_column = "edited" if "target" in rows.fields else "target"
    return [
        Scored(replace(row, images={}), score, _columns(row, keep, folder, scored_column))
        for row, score, keep in zip(rows, scores, kept, strict=True)
        if keep or every
    ]


def _columns(row: Row, kept: bool, folder: Path, scored_column: str) -> dict[str, Any]:
    texts = {name: row.texts[name] for name in TEXT_FIELDS if name in row.texts}
    images = image_cells(row.images, folder)
    if "edited" in images:
        images[scored_column] = images.pop("edited")
    return {**texts, **images, "kept": kept}
