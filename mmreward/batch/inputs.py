"""Reading edits: JSONL, CSV, Parquet, a dataset folder of Hugging Face, or a folder with one folder per edit.

- `edits.jsonl`, `.csv`, `.parquet`: one row an edit, columns named as the fields of `Edit` or mapped to them. Image
  columns hold paths, relative to the file, or (Parquet) bytes or Hugging Face's {bytes, path}.
- imagefolder: a folder with `metadata.jsonl`, `.csv` or `.parquet`, where the column `source_file_name` names the file
  of the column `source`, and `file_name` that of the column `image`
  (https://huggingface.co/docs/datasets/image_dataset).
- a dataset folder: Parquet shards, or what `save_to_disk` writes (`mmreward.batch.shards`); a pattern such as
  `FOLDER/data/train-*.parquet` names several files of one table.
- `<id>/` folders: each with `instruction.txt`, `source.*` and edited images of any other name (one row each);
  `mask.*`, `target.*`, `criteria.txt`, `source_caption.txt` and `target_caption.txt` where there are any. Where no
  edited image is asked for there is one row a folder; where there is none, `target.*` is the edited image.
- a folder with `edits.jsonl`, `edits.csv` or `edits.parquet`: that file.

A column or file called `reference`, the older name of `target`, is read as that where there is no `target`.

Files are read row by row, twice: for their columns and their number, then for the rows.
"""

__all__ = ["read_rows"]

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmreward.batch.rows import FIELDS, Row, Rows, make_row
from mmreward.batch.shards import arrow, find_shards, matching
from mmreward.reward import unknown

Records = Callable[[Path], Iterator[dict[str, Any] | str]]
"""Yields records, or for a row that cannot be read what is wrong with it."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".jp2")
_OLDER_NAMES = {"target": "reference"}
_TEXT_FILES = ("instruction", "criteria", "source_caption", "target_caption")


def read_rows(
    path: str | Path,
    mapping: Mapping[str, str] | None = None,
    needs: Sequence[str] = ("instruction", "source", "edited"),
    instead: Mapping[str, str] | None = None,
) -> Rows:
    """The rows of a file or folder. `mapping` names the columns of fields that are called otherwise, for example
    {"edited": "target"}; `instead` does so for columns that are there, where the field has none of its own. Raises
    ValueError or OSError where no row could be right: no such file, a missing column.
    """
    path = Path(path)
    for name in mapping or {}:
        if name not in FIELDS:
            raise unknown("field of an edit", name, FIELDS)
    read = _Reading(mapping or {}, needs, instead or {})
    if path.is_dir():
        return _folder(path, read)
    if files := matching(path):
        return _table(path, files, read)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    return _file(path, read)


@dataclass(frozen=True)
class _Reading:
    """How columns become fields."""

    mapping: Mapping[str, str]
    needs: Sequence[str]
    instead: Mapping[str, str]


def _folder(path: Path, read: _Reading) -> Rows:
    for stem in ("metadata", "edits"):
        for suffix in _READERS:
            if (path / (stem + suffix)).is_file():
                return _file(path / (stem + suffix), read, images=stem == "metadata")
    if shards := find_shards(path):
        return _table(path, shards, read)
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and _is_edit(folder))
    if not folders:
        raise ValueError(
            f"the folder {str(path)!r} holds no edits: neither metadata.jsonl (or .csv, .parquet), nor edits.jsonl (or "
            ".csv, .parquet), nor Parquet or Arrow files of a data set, nor folders with instruction.txt and source.png"
        )
    if read.mapping:
        raise ValueError("a mapping of columns is for files with columns; a folder of edits has none")
    iterate = partial(_each, folders, "edited" in read.needs)
    return Rows(path, sum(1 for _ in iterate()), ("id", *read.needs), iterate)


def _file(path: Path, read: _Reading, images: bool = False) -> Rows:
    if path.suffix.lower() not in _READERS:
        raise ValueError(
            f"{path}: edits are read from {', '.join(_READERS)} or a folder, not from {path.suffix or 'this'!r}"
        )
    return _table(path, [path], read, images)


def _table(path: Path, files: Sequence[Path], read: _Reading, images: bool = False) -> Rows:
    """The rows of one table in `files`, which `path` names; paths in it are relative to the files."""
    reader = {**_READERS, ".arrow": arrow}[files[0].suffix.lower()]
    names: dict[str, None] = {}
    total, broken = 0, []
    for record in (record for file in files for record in reader(file)):
        total += 1
        if isinstance(record, str):
            broken.append(record)
        else:
            names.update(dict.fromkeys(_renamed(record) if images else record))
    if total == 0:
        raise ValueError(f"{path} is empty: it holds no row")
    if len(broken) == total:
        raise ValueError(f"{path} cannot be read: {broken[0]}")
    columns = _columns(path, tuple(names), read)

    def iterate() -> Iterator[Row]:
        for number, record in enumerate(record for file in files for record in reader(file)):
            place = f"{path.name} row {number + 1}"
            if isinstance(record, str):
                yield Row(str(number), error=f"{path.name} {record}")
            else:
                named = _renamed(record) if images else record
                yield make_row(named, place, number, files[0].parent, columns, read.needs)

    return Rows(path, total, tuple(names), iterate)


def _columns(path: Path, names: Sequence[str], read: _Reading) -> dict[str, str]:
    """Field -> column, checked."""
    for field, column in read.mapping.items():
        if column not in names:
            raise ValueError(f"--map {field}={column}: {path.name}: {unknown('column', column, names)}")
    stand_in = {field: column for field, column in read.instead.items() if field not in names and column in names}
    mapping = {**stand_in, **read.mapping}
    # A column that stands for another field is not read as its own as well: the target that is scored as an edit must
    # not say what the edit is measured on.
    free = [name for name in names if name not in mapping.values()]
    for field, older in _OLDER_NAMES.items():
        if field not in mapping and field not in free and older in free:
            mapping[field] = older
    columns = {field: mapping.get(field, field) for field in FIELDS if field in mapping or field in free}
    missing = [field for field in read.needs if field not in columns]
    if missing:
        raise ValueError(
            f"{path.name} has no column {' and no column '.join(map(repr, missing))}; it has: {', '.join(names)}. "
            f"Say which column is meant: --map {missing[0]}=COLUMN"
        )
    return columns


def _renamed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face's imagefolder: the column `x_file_name` names the file of `x`, and `file_name` that of `image`."""
    names = {name: "image" if name == "file_name" else name.removesuffix("_file_name") for name in record}
    return {names[name]: value for name, value in record.items()}


def _jsonl(path: Path) -> Iterator[dict[str, Any] | str]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:  # also UnicodeDecodeError
                yield f"line {number} is not JSON: {error}"
            else:
                yield record if isinstance(record, dict) else f"line {number} is not a JSON object"


def _csv(path: Path) -> Iterator[dict[str, Any] | str]:
    with path.open(newline="", encoding="utf-8-sig") as stream:
        try:
            for record in csv.DictReader(stream):
                extra = record.pop(None, None)
                yield "row has more cells than the header: " + ", ".join(extra) if extra else record
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _parquet(path: Path) -> Iterator[dict[str, Any] | str]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from None


_READERS: dict[str, Records] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}


def _is_edit(folder: Path) -> bool:
    return (folder / "instruction.txt").is_file() or _find(folder, "source") is not None


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _find(folder: Path, stem: str) -> Path | None:
    return next((file for file in _images(folder) if file.stem == stem), None)


def _edited(folder: Path) -> list[Path]:
    return [file for file in _images(folder) if file.stem not in ("source", "mask", "target", "reference")]


def _each(folders: Sequence[Path], needs_edited: bool) -> Iterator[Row]:
    for folder in folders:
        files = {name: folder / f"{name}.txt" for name in _TEXT_FILES}
        try:
            texts = {name: file.read_text(encoding="utf-8").strip() for name, file in files.items() if file.is_file()}
        except (OSError, UnicodeDecodeError) as error:
            yield Row(folder.name, error=f"{folder}: a text file cannot be read: {error}")
            continue
        if "instruction" not in texts:
            yield Row(folder.name, error=f"{folder / 'instruction.txt'} not found")
            continue
        images = {name: file for name in ("source", "mask", "target") if (file := _find(folder, name))}
        if "target" not in images and (older := _find(folder, "reference")):
            images["target"] = older
        if not needs_edited:
            yield Row(folder.name, texts, images)
            continue
        edited = _edited(folder)
        if not edited and "target" in images:
            edited = [images.pop("target")]
        if not edited:
            yield Row(folder.name, error=f"no edited image in {folder}")
        for file in edited:
            row_id = folder.name if len(edited) == 1 else f"{folder.name}/{file.stem}"
            yield Row(row_id, texts, {**images, "edited": file})
