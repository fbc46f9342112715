"""Writing scores: Parquet or JSONL, one row per input row, in order, whole or not at all.

Columns: `id`, `overall`, one per dimension, `status`, `error`, `rationale`, `spread` with `spread_kind`, `reward`,
`raw` and `provenance` (JSON), then the other columns of the input under their own names; one that is called like a
column of ours becomes `input_<name>`. What is not a number is null, never NaN.
"""

__all__ = ["check_output", "write_rows"]

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmreward.batch.run import Scored

FORMATS = (".parquet", ".jsonl")


def check_output(path: str | Path, overwrite: bool = False) -> Path:
    """Refuse, before any work is done, a file that could not be written in the end."""
    path = Path(path)
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
    _whole(path, _as_parquet if path.suffix.lower() == ".parquet" else _as_jsonl, records, dims)


def _record(scored: Scored, reward: str, dims: Sequence[str]) -> dict[str, Any]:
    row, score = scored.row, scored.score
    record: dict[str, Any] = {
        "id": row.id,
        "overall": _number(score.overall),
        **{dim: _number(score.dims.get(dim)) for dim in dims},
        "status": score.status,
        "error": score.error,
        "rationale": score.rationale,
        "spread": _number(score.spread.value) if score.spread else None,
        "spread_kind": score.spread.kind if score.spread else None,
        "reward": reward,
        "raw": json.dumps({name: _number(value) for name, value in score.raw.items()}),
        "provenance": json.dumps(dict(score.provenance), default=_plain),
    }
    own = set(record)
    return record | {(f"input_{name}" if name in own else name): value for name, value in row.meta.items()}


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays and numbers of numpy, paths, dates, bytes (as base64)."""
    if isinstance(value, bytes):
        import base64

        return base64.b64encode(value).decode("ascii")
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _as_jsonl(path: Path, records: Iterable[dict[str, Any]], dims: Sequence[str]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in records:
            record |= {name: json.loads(record[name]) for name in ("raw", "provenance")}
            stream.write(json.dumps(record, ensure_ascii=False, default=_plain) + "\n")


def _as_parquet(path: Path, records: Sequence[dict[str, Any]], dims: Sequence[str]) -> None:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    numbers = {"overall", "spread", *dims}
    texts = {"id", "status", "error", "rationale", "spread_kind", "reward", "raw", "provenance"}
    columns = {}
    for name in dict.fromkeys(name for record in records for name in record):
        values = [record.get(name) for record in records]
        kind = pa.float64() if name in numbers else pa.string() if name in texts else None
        try:
            columns[name] = pa.array(values, kind)
        except pa.ArrowException:  # values of several types in one column of the input
            columns[name] = pa.array([None if v is None else json.dumps(v, default=_plain) for v in values])
    write_table(pa.table(columns), path)


def _whole(path: Path, write: Callable[..., None], *arguments: Any) -> None:
    """Call `write(temporary file, …)`, then rename it to `path`; whatever happens, nothing half-written stays."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~_umask())
        write(temporary, *arguments)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
