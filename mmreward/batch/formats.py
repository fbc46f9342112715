"""Formats of tables: JSONL, CSV, Parquet, and the Arrow streams of Hugging Face.

Each tells its columns and its number of rows (Parquet and Arrow from their metadata), and reads record by record: what
is in memory at once is a few rows, however large the file.
"""

__all__ = ["FORMATS", "Format", "Survey", "format_of"]

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS_AT_ONCE = 8
"""Rows that are unpacked together; with images inside, a row may take megabytes."""
_LONGEST_CELL = 1 << 30
"""Characters of a CSV cell; images as base64 are far beyond the 131,072 that Python's reader allows by default."""

Record = dict[str, Any] | str
"""A record, or for a row that cannot be read what is wrong with it."""


@dataclass(frozen=True)
class Survey:
    """What there is in a file. `broken` counts the rows that cannot be read, as far as that is known."""

    columns: tuple[str, ...]
    total: int
    broken: int = 0
    first_broken: str | None = None

    @classmethod
    def of(cls, records: Iterator[Record]) -> "Survey":
        columns: dict[str, None] = {}
        total = broken = 0
        first = None
        for record in records:
            total += 1
            if isinstance(record, str):
                broken += 1
                first = first or record
            else:
                columns.update(dict.fromkeys(record))
        return cls(tuple(columns), total, broken, first)

    @classmethod
    def of_all(cls, parts: "Sequence[Survey]") -> "Survey":
        columns = dict.fromkeys(name for part in parts for name in part.columns)
        first = next((part.first_broken for part in parts if part.first_broken), None)
        return cls(tuple(columns), sum(part.total for part in parts), sum(part.broken for part in parts), first)


@dataclass(frozen=True)
class Format:
    survey: Callable[[Path], Survey]
    """Raises ValueError for a file that cannot be read."""
    records: Callable[[Path], Iterator[Record]]


def format_of(path: Path, files: Sequence[Path]) -> Format:
    """The format of the `files` of one table, which `path` names."""
    suffix = files[0].suffix.lower()
    known = {**FORMATS, ".arrow": Format(_arrow_survey, _arrow)}
    if suffix not in known:
        raise ValueError(f"{path}: edits are read from {', '.join(FORMATS)} or a folder, not from {suffix or 'this'!r}")
    return known[suffix]


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
                yield f"line {number} is not JSON: {error}"
            else:
                yield record if isinstance(record, dict) else f"line {number} is not a JSON object"


def _csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            for record in csv.DictReader(stream):
                extra = record.pop(None, None)
                yield "row has more cells than the header: " + ", ".join(extra) if extra else record
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _parquet_survey(path: Path) -> Survey:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            return Survey(tuple(file.schema_arrow.names), file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    # Buffering ahead would read the whole file, images included, before the first row.
    with ParquetFile(path, pre_buffer=False) as file:
        for group in range(file.metadata.num_row_groups):
            total, done = file.metadata.row_group(group).num_rows, 0
            try:
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, row_groups=[group]):
                    records = batch.to_pylist()
                    done += len(records)
                    yield from records
            except (pyarrow.ArrowException, OSError) as error:  # damaged in this group: the others can be read
                yield from [f"holds a row that cannot be read as Parquet: {error}"] * (total - done)


def _arrow_survey(path: Path) -> Survey:
    columns, total = (), 0
    for batch in _arrow_batches(path):
        columns, total = tuple(batch.schema.names), total + batch.num_rows
    return Survey(columns, total)


def _arrow(path: Path) -> Iterator[Record]:
    for batch in _arrow_batches(path):
        for start in range(0, batch.num_rows, ROWS_AT_ONCE):
            yield from batch.slice(start, ROWS_AT_ONCE).to_pylist()


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Batches of an Arrow stream, as Hugging Face's `save_to_disk` writes it; they lie in the file until unpacked."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
            yield from stream
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as an Arrow stream: {error}") from None


FORMATS: dict[str, Format] = {
    ".jsonl": Format(lambda path: Survey.of(_jsonl(path)), _jsonl),
    ".csv": Format(lambda path: Survey.of(_csv(path)), _csv),
    ".parquet": Format(_parquet_survey, _parquet),
}
