"""Reading edits: JSONL, CSV, Parquet, a dataset folder of Hugging Face, or a folder with one folder per edit.

- `edits.jsonl`, `.csv`, `.parquet`: one row an edit, columns named as the fields of `Edit` or mapped to them. Image
  columns hold paths, relative to the file, data URLs, base64, or (Parquet) bytes or Hugging Face's {bytes, path}.
- `-`: JSONL on standard input; its paths are relative to the working folder.
- imagefolder: a folder with `metadata.jsonl`, `.csv` or `.parquet`, where the column `source_file_name` names the file
  of the column `source`, and `file_name` that of the column `image`
  (https://huggingface.co/docs/datasets/image_dataset).
- a dataset folder: Parquet shards, or what `save_to_disk` writes (`mmreward.batch.shards`); a pattern such as
  `FOLDER/data/train-*.parquet` names several files of one table.
- `<id>/` folders: each with `instruction.txt`, `source.*` and edited images of any other name (one row each);
  `mask.*`, `target.*`, `criteria.txt`, `source_caption.txt` and `target_caption.txt` where there are any. Where no
  edited image is asked for there is one row a folder; where there is none, `target.*` is the edited image.
- a folder with `edits.jsonl`, `edits.csv` or `edits.parquet`: that file.

A column or file called `reference`, the older name of `target`, is read as that where there is no `target`. Files whose
names begin with a dot, such as the companions `._a.png` that macOS leaves, are no images and no shards.

Files are read row by row; JSONL and CSV twice, since only reading tells their columns and their number of rows.
"""

__all__ = ["read_rows", "read_table"]

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mmreward.batch.formats import FORMATS, Survey, format_of
from mmreward.batch.rows import IMAGE_FIELDS, TEXT_FIELDS, Row, Rows, make_row
from mmreward.batch.shards import find_shards, matching
from mmreward.reward import unknown

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
    return read_table(path, mapping, needs, instead)


def read_table(
    path: str | Path,
    mapping: Mapping[str, str] | None,
    needs: Sequence[str],
    instead: Mapping[str, str] | None = None,
    image_fields: Sequence[str] = IMAGE_FIELDS,
) -> Rows:
    """`read_rows` for rows that have other images than those of an `Edit`."""
    path = Path(path)
    read = _Reading(_current_names(mapping or {}), needs, instead or {}, image_fields)
    for name in read.mapping:
        if name not in read.all_fields:
            raise unknown("field of an edit", name, read.all_fields)
    if str(path) == "-":
        return _standard_input(read)
    if path.is_dir():
        return _folder(path, read)
    if files := matching(path):
        return _table(path, files, read)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    return _table(path, [path], read)


@dataclass(frozen=True)
class _Reading:
    """How columns become fields."""

    mapping: Mapping[str, str]
    needs: Sequence[str]
    instead: Mapping[str, str]
    image_fields: Sequence[str]

    @property
    def all_fields(self) -> tuple[str, ...]:
        return ("id", *TEXT_FIELDS, *self.image_fields)


def _current_names(mapping: Mapping[str, str]) -> dict[str, str]:
    """`mapping` with fields by the names that they have now."""
    renamed = {older: field for field, older in _OLDER_NAMES.items()}
    for older, field in renamed.items():
        if older in mapping and field in mapping:
            raise ValueError(f"--map {older}: the field is called {field} now, and {field} is mapped too; give one")
    return {renamed.get(field, field): column for field, column in mapping.items()}


def _standard_input(read: _Reading) -> Rows:
    spool = tempfile.NamedTemporaryFile(suffix=".jsonl")  # noqa: SIM115  # removed with the rows that are read from it
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    rows = _table(Path("standard input"), [Path(spool.name)], read, folder=Path())

    def iterate(_: object = spool) -> Iterator[Row]:
        return iter(rows)

    return Rows(rows.where, rows.total, rows.columns, iterate, rows.fields)


def _folder(path: Path, read: _Reading) -> Rows:
    for stem in ("metadata", "edits"):
        for suffix in FORMATS:
            if (file := path / (stem + suffix)).is_file():
                return _table(file, [file], read, images=stem == "metadata")
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
    if set(read.image_fields) != set(IMAGE_FIELDS):
        raise ValueError(f"{path} is a folder of edits; {' and '.join(read.needs)} are columns of a file")
    iterate = partial(_each, folders, "edited" in read.needs)
    rows = list(iterate())
    fields = {name: name for row in rows for name in (*row.texts, *row.images)}
    return Rows(path, len(rows), ("id", *read.needs), iterate, fields)


def _table(path: Path, files: Sequence[Path], read: _Reading, images: bool = False, folder: Path | None = None) -> Rows:
    """The rows of one table in `files`, which `path` names; paths in it are relative to `folder`, by default to that of
    the files. `images`: it is the table of an imagefolder.
    """
    form = format_of(path, files)
    survey = Survey.of_all([form.survey(file) for file in files])
    names = _names(path, survey.columns) if images else {name: name for name in survey.columns}
    if survey.total == 0:
        raise ValueError(f"{path} is empty: it holds no row")
    if survey.broken == survey.total:
        raise ValueError(f"{path} cannot be read: {survey.first_broken}")
    columns = _columns(path, tuple(names.values()), read)
    folder = files[0].parent if folder is None else folder

    def iterate() -> Iterator[Row]:
        for number, record in enumerate(record for file in files for record in form.records(file)):
            place = f"{path.name} row {number + 1}"
            if isinstance(record, str):
                yield Row(str(number), error=f"{path.name} {record}")
            else:
                named = {names[name]: value for name, value in record.items()}
                yield make_row(named, place, number, folder, columns, read.needs, read.image_fields)

    return Rows(path, survey.total, tuple(names.values()), iterate, columns)


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
    columns = {field: mapping.get(field, field) for field in read.all_fields if field in mapping or field in free}
    missing = [field for field in read.needs if field not in columns]
    if missing:
        raise ValueError(
            f"{path.name} has no column {' and no column '.join(map(repr, missing))}; it has: {', '.join(names)}. "
            f"Say which column is meant: --map {missing[0]}=COLUMN"
        )
    return columns


def _names(path: Path, columns: Sequence[str]) -> dict[str, str]:
    """Hugging Face's imagefolder: the column `x_file_name` names the file of `x`, and `file_name` that of `image`."""
    names = {name: "image" if name == "file_name" else name.removesuffix("_file_name") for name in columns}
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        both = " and ".join(column for column, name in names.items() if name == twice[0])
        raise ValueError(f"{path}: the columns {both} both say what {twice[0]} is; remove one of them")
    return names


def _is_edit(folder: Path) -> bool:
    return (folder / "instruction.txt").is_file() or _find(folder, "source") is not None


def _images(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)


def _text(file: Path) -> str:
    """Its text without the line break at the end that editors leave."""
    return file.read_text(encoding="utf-8-sig").strip("\r\n")


def _find(folder: Path, stem: str) -> Path | None:
    return next((file for file in _images(folder) if file.stem == stem), None)


def _edited(folder: Path) -> list[Path]:
    return [file for file in _images(folder) if file.stem not in ("source", "mask", "target", "reference")]


def _each(folders: Sequence[Path], needs_edited: bool) -> Iterator[Row]:
    for folder in folders:
        files = {name: folder / f"{name}.txt" for name in _TEXT_FILES}
        try:
            texts = {name: _text(file) for name, file in files.items() if file.is_file()}
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
