"""A row of an input: what it says about one edit, and what else stands in it."""

__all__ = ["FIELDS", "IMAGE_FIELDS", "Row", "Rows", "make_row"]

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmreward.edit import Edit, ImageLike
from mmreward.images.given import encoded_bytes, is_address, shortened

IMAGE_FIELDS = ("source", "edited", "mask", "target")
TEXT_FIELDS = ("instruction", "criteria", "source_caption", "target_caption")
FIELDS = ("id", *TEXT_FIELDS, *IMAGE_FIELDS)
"""What a column can be mapped to; all other columns go to `meta`."""


@dataclass(frozen=True)
class Row:
    """`texts` and `images` hold what the row gives of an `Edit`'s fields. `error` says why the row cannot be read."""

    id: str
    texts: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, ImageLike] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def instruction(self) -> str:
        return self.texts.get("instruction", "")

    def edit(self) -> Edit:
        """The edit. An image that the row does not name is an `ImageError` when it is opened, as any missing one."""
        fields: dict[str, Any] = {"instruction": "", "source": "", "edited": "", **self.texts, **self.images}
        return Edit(**fields, id=self.id, meta=self.meta)


@dataclass(frozen=True)
class Rows:
    """The rows of an input, read anew by each iteration."""

    where: Path
    total: int
    columns: tuple[str, ...]
    _iterate: Callable[[], Iterator[Row]]

    def __iter__(self) -> Iterator[Row]:
        return self._iterate()

    def __len__(self) -> int:
        return self.total


def make_row(
    record: Mapping[str, Any], place: str, number: int, folder: Path, columns: Mapping[str, str], needs: Sequence[str]
) -> Row:
    """`record` as a row. `columns` maps fields of `Edit` to columns; relative paths are relative to `folder`; the row
    must have the images among `needs`.
    """
    meta = {name: value for name, value in record.items() if name not in columns.values()}
    given = {name: record[column] for name, column in columns.items() if not _empty(record.get(column))}
    row_id = str(given.pop("id", number))
    texts, images, wrong = {}, {}, []
    for name, value in given.items():
        if name not in IMAGE_FIELDS and isinstance(value, str | int | float):
            texts[name] = str(value)
        elif name in IMAGE_FIELDS and (image := _image(value, folder)) is not None:
            images[name] = image
        else:
            expected = "a path or image bytes" if name in IMAGE_FIELDS else "text"
            wrong.append(f"{name} should be {expected}, got {_short(value)} ({place})")
    missing = [name for name in IMAGE_FIELDS if name in needs and name not in given]
    wrong += [f"{name} image missing: the column {columns[name]!r} is empty" for name in missing]
    return Row(row_id, texts, images, meta, "; ".join(wrong) or None)


def _empty(value: Any) -> bool:
    return value is None or value == ""


def _image(value: Any, folder: Path) -> ImageLike | None:
    """A path, bytes, or what the image columns of Hugging Face hold: {"bytes": …, "path": …}."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    return str(folder / value) if isinstance(value, str) else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
