"""Comparing rows: pairs of edits from a file, each with its preference, written as a table of judgements.

A row names the source, the instruction and two edited images, `first` and `second`.
"""

__all__ = ["DIMS", "Compared", "compare_rows", "read_pairs", "write_pairs"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mmreward.batch.images import image_cells
from mmreward.batch.inputs import read_table
from mmreward.batch.judgements import PairJudgement, write_judgements
from mmreward.batch.rows import Row, Rows
from mmreward.batch.run import Scored
from mmreward.edit import Edit
from mmreward.preference import Comparer, Preference
from mmreward.score import Score

DIMS = ("first", "tie", "second")
_EDITED = ("first", "second")
_BESIDE = ("mask", "target")
"""Images that a pair may have besides."""


@dataclass(frozen=True)
class Compared:
    """A pair, without its images, and its preference."""

    row: Row
    preference: Preference

    @property
    def scored(self) -> Scored:
        """The preference as a score: what the first edit gets of the comparison (its probability of being better, and
        half of that of a tie), with the probabilities as dimensions.
        """
        preference = self.preference
        if not preference.ok:
            failed = Score.failed(preference.status, preference.error or "no preference")
            return Scored(self.row, failed)
        dims = {"first": preference.first, "tie": preference.tie, "second": min(preference.second, 1.0)}
        return Scored(self.row, Score(preference.share, dims))


def read_pairs(path: str | Path, mapping: Mapping[str, str] | None = None) -> Rows:
    """The pairs of a file with the columns instruction, source, first and second (and, where there are any, the other
    columns of edits). `mapping` names the columns of fields that are called otherwise. Raises ValueError or OSError.
    """
    if "edited" in (mapping or {}):
        raise ValueError("pairs have no column for edited; map first and second")
    return read_table(path, mapping, ("instruction", "source", *_EDITED), image_fields=("source", *_EDITED, *_BESIDE))


def compare_rows(rows: Iterable[Row], comparer: Comparer, batch_size: int = 32) -> Iterator[Compared]:
    """Each pair with its preference, in order; `batch_size` pairs are handed over at once. A row that could not be read
    has the status `io_error`. Raises ValueError for a comparer that returns another number of preferences.
    """
    rest = iter(rows)
    while batch := list(islice(rest, batch_size)):
        pairs = [(_edit(row, "first"), _edit(row, "second")) for row in batch if row.error is None]
        preferences = list(comparer.compare(pairs)) if pairs else []
        if len(preferences) != len(pairs):
            raise ValueError(f"{comparer.name} returned {len(preferences)} preferences for {len(pairs)} pairs")
        in_order = iter(preferences)
        for row in batch:
            failed = None if row.error is None else Preference.failed("io_error", row.error)
            yield Compared(replace(row, images={}), failed or next(in_order))


def write_pairs(path: Path, rows: Rows, compared: Sequence[Compared], rater: str) -> None:
    """Write the table of judgements that `mmreward.batch.judgements` describes, and beside each row verdict,
    consistent, rationale, raw and provenance of its preference. The rows are read again, for their images.
    """
    judgements, beside = [], []
    for row, one in zip(rows, compared, strict=True):
        preference = one.preference
        values = {"p_first": float(preference.first), "p_tie": float(preference.tie)} if preference.ok else {}
        judgement = {
            "id": row.id,
            "instruction": row.instruction,
            **{name: row.images.get(name) for name in ("source", *_EDITED)},
            **values,
            "rater": rater,
            "status": preference.status,
            "error": preference.error,
            "meta": dict(row.meta),
        }
        judgements.append(PairJudgement.model_validate(judgement))
        beside.append(_beside(row, preference, path.parent))
    write_judgements(path, judgements, beside)


def _beside(row: Row, preference: Preference, folder: Path) -> dict[str, Any]:
    texts = {name: text for name, text in row.texts.items() if name != "instruction"}
    images = {name: image for name, image in row.images.items() if name in _BESIDE}
    return {
        **texts,
        **image_cells(images, folder),
        "verdict": preference.verdict,
        "consistent": preference.consistent,
        "rationale": preference.rationale,
        "raw": dict(preference.raw),
        "provenance": dict(preference.provenance),
    }


def _edit(row: Row, name: str) -> Edit:
    images = {field: image for field, image in row.images.items() if field not in _EDITED}
    return replace(row, images={**images, "edited": row.images[name]}).edit()
