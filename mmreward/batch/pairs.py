"""Comparing rows: pairs of edits from a file, each with its preference, written as scores are.

A row names the source, the instruction and two edited images, `first` and `second`. It is read as two edits that differ
in the edited image; the preference is written as a score whose `overall` is what the first edit gets of the comparison
(its probability of being better, and half of that of a tie), with the probabilities as dimensions.
"""

__all__ = ["DIMS", "PairRow", "PairRows", "compare_rows", "read_pairs"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from mmreward.batch.inputs import read_rows
from mmreward.batch.rows import Row, Rows
from mmreward.batch.run import Scored
from mmreward.preference import Comparer, Preference
from mmreward.score import Score

DIMS = ("first", "tie", "second")


@dataclass(frozen=True)
class PairRow:
    """The same row with either edited image. `row` is what is written beside the result."""

    first: Row
    second: Row
    row: Row


@dataclass(frozen=True)
class PairRows:
    """The pairs of an input, read anew by each iteration."""

    first: Rows
    second: Rows
    columns: tuple[str, str]
    """Columns of the two edited images."""

    def __iter__(self) -> Iterator[PairRow]:
        for first, second in zip(self.first, self.second, strict=True):
            meta = {name: value for name, value in first.meta.items() if name not in self.columns}
            error = first.error or second.error
            yield PairRow(first, second, replace(first, meta=meta, error=error))


def read_pairs(path: str | Path, mapping: Mapping[str, str] | None = None) -> PairRows:
    """The pairs of a file with the columns instruction, source, first and second (and, where there are any, the other
    columns of edits). `mapping` names the columns of fields that are called otherwise. Raises ValueError or OSError.
    """
    columns = dict(mapping or {})
    first, second = columns.pop("first", "first"), columns.pop("second", "second")
    if "edited" in columns:
        raise ValueError("pairs have no column for edited; map first and second")
    one = read_rows(path, {**columns, "edited": first})
    other = read_rows(path, {**columns, "edited": second})
    return PairRows(one, other, (first, second))


def compare_rows(rows: Iterable[PairRow], comparer: Comparer, batch_size: int = 32) -> Iterator[Scored]:
    """Each row with its preference, in order; `batch_size` pairs are handed over at once. A row that could not be read
    has the status `io_error`.
    """
    rest = iter(rows)
    while batch := list(islice(rest, batch_size)):
        pairs = [(row.first.edit(), row.second.edit()) for row in batch if row.row.error is None]
        told = iter(comparer.compare(pairs))
        for row in batch:
            if row.row.error is not None:
                yield Scored(row.row, Score.failed("io_error", row.row.error))
                continue
            preference = next(told)
            more = {"verdict": preference.verdict, "consistent": preference.consistent}
            yield Scored(replace(row.row, meta={**row.row.meta, **more}), _as_score(preference))


def _as_score(preference: Preference) -> Score:
    if not preference.ok:
        return Score.failed(
            preference.status,
            preference.error or "no preference",
            rationale=preference.rationale,
            raw=preference.raw,
            provenance=preference.provenance,
        )
    dims = {"first": preference.first, "tie": preference.tie, "second": min(preference.second, 1.0)}
    return Score(
        preference.share, dims, rationale=preference.rationale, raw=preference.raw, provenance=preference.provenance
    )
