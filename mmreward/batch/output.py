"""Writing scores: Parquet or JSONL, one row per input row, in order, whole or not at all.

Columns: `id`, `overall`, one per dimension, `status`, `error`, `rationale`, `spread` with `spread_kind`, `reward`,
`raw`, `provenance` and `parts` (JSON; the members of a combination by name, each with overall, dims, raw, status and
error; null for a reward that is none), then the other columns of the input under their own names; one that is called
like a column of ours becomes `input_<name>`, and none is lost. What is not a number is null, never NaN.

*One rule for outputs*, for every command: an unfinished output of the same call is continued, where the command can; a
finished one, or one of another call, is refused; `--overwrite` starts again. Scores are written at the end, so that
there is nothing unfinished. `-` is standard output, as JSONL.
"""

__all__ = ["STANDARD_OUTPUT", "check_output", "write_records", "write_rows"]

import math
import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mmreward.batch.columns import input_names
from mmreward.batch.run import Scored
from mmreward.score import Score
from mmreward.strict_json import dumps

FORMATS = (".parquet", ".jsonl")
STANDARD_OUTPUT = Path("-")
_JSON = ("raw", "provenance", "parts")
"""Columns that hold JSON: as it is in JSONL, as text in Parquet."""


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse, before any work is done, a file that could not be written in the end, or holds results already."""
    path = Path(path)
    if path == STANDARD_OUTPUT:
        return path
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"scores are written as {' or '.join(FORMATS)}, not as {path.name!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; add --overwrite to replace it, or choose another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise type(error)(f"cannot write to the folder {str(path.parent)!r}: {error.strerror}") from None
    return path


def write_rows(path: Path, rows: Sequence[Scored], reward: str, dims: Sequence[str]) -> None:
    """Write the scores of all rows to a temporary file beside `path`, then put it in place."""
    records = [_record(row, reward, dims) for row in rows]
    kinds = dict.fromkeys(("overall", "spread", *dims), "number")
    kinds |= dict.fromkeys(("id", "status", "error", "rationale", "spread_kind", "reward"), "text")
    write_records(path, records, [row.row.meta for row in rows], kinds)


def write_records(
    path: Path, records: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], kinds: Mapping[str, str]
) -> None:
    """Write `records`, each with the input's `others` beside it, to a temporary file, then put it in place. `kinds`
    says of what kind columns are in Parquet ("number", "text" or "bool") whatever is in them.
    """
    own = dict.fromkeys(name for record in records for name in record)
    names = input_names(dict.fromkeys(name for other in others for name in other), own)
    whole = (
        {**record, **{names[name]: value for name, value in other.items()}}
        for record, other in zip(records, others, strict=True)
    )
    if path == STANDARD_OUTPUT:
        _as_jsonl(sys.stdout.buffer, whole, kinds)
        sys.stdout.buffer.flush()
    else:
        _put_in_place(path, _as_parquet if path.suffix.lower() == ".parquet" else _as_jsonl, whole, kinds)


def _record(scored: Scored, reward: str, dims: Sequence[str]) -> dict[str, Any]:
    row, score = scored.row, scored.score
    return {
        "id": row.id,
        "overall": _number(score.overall),
        **{dim: _number(score.dims.get(dim)) for dim in dims},
        "status": score.status,
        "error": score.error,
        "rationale": score.rationale,
        "spread": _number(score.spread.value) if score.spread else None,
        "spread_kind": score.spread.kind if score.spread else None,
        "reward": reward,
        "raw": dict(score.raw),
        "provenance": dict(score.provenance),
        "parts": {name: _part(part) for name, part in score.parts.items()} or None,
        **scored.columns,
    }


def _part(score: Score) -> dict[str, Any]:
    part: dict[str, Any] = {"overall": _number(score.overall), "dims": dict(score.dims), "raw": dict(score.raw)}
    part |= {"status": score.status, "error": score.error}
    return part | ({"parts": {name: _part(inner) for name, inner in score.parts.items()}} if score.parts else {})


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _as_jsonl(stream: IO[bytes], records: Iterable[Mapping[str, Any]], kinds: Mapping[str, str]) -> None:
    for record in records:
        stream.write(dumps(record).encode("utf-8") + b"\n")


def _as_parquet(stream: IO[bytes], records: Iterable[Mapping[str, Any]], kinds: Mapping[str, str]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    rows = list(records)
    types = {"number": pa.float64(), "text": pa.string(), "bool": pa.bool_(), "json": pa.string()}
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        kind = "json" if name in _JSON and name not in kinds else kinds.get(name)
        values = [_cell(row.get(name), kind) for row in rows]
        if kind is None and {str, bytes} <= {type(value) for value in values}:  # which Arrow takes for bytes
            values = [_image_cell(value) for value in values]
        try:
            columns[name] = pa.array(values, types.get(kind or ""))
        except (pa.ArrowException, OverflowError):  # values of several types in one column of the input
            columns[name] = pa.array([None if value is None else dumps(value) for value in values])
    write_table(pa.table(columns), stream)


def _image_cell(value: Any) -> Any:
    """Of a column with paths and encoded images: a cell as in Hugging Face's image columns."""
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    return {"bytes": None, "path": value} if isinstance(value, str) else value


def _cell(value: Any, kind: str | None) -> Any:
    if kind == "json":
        return None if value is None else dumps(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair is no text
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _put_in_place(path: Path, write: Callable[..., None], *arguments: Any) -> None:
    """Call `write(stream, …)` on a temporary file, then rename it to `path`; whatever happens, nothing half-written
    stays.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        # os.open gives the file the rights that the umask leaves, as any other file of the user's has.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as stream:
            write(stream, *arguments)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
