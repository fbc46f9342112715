"""A row of an input: what it says about one edit, and what else stands in it.

*Missing* is a cell that holds nothing, in every kind of file alike: null, NaN, an empty text, and the text "nan" in any
case, which is what tables of pandas leave in a CSV file. Any other text means what it says.
"""

__all__ = ["FIELDS", "IMAGE_FIELDS", "TEXT_FIELDS", "Row", "Rows", "is_missing", "make_row"]

import math
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
    fields: Mapping[str, str] = field(default_factory=dict)
    """Field -> the column that it is read from, where there are columns."""

    def __iter__(self) -> Iterator[Row]:
        return self._iterate()

    def __len__(self) -> int:
        return self.total


def make_row(
    record: Mapping[str, Any],
    place: str,
    number: int,
    folder: Path,
    columns: Mapping[str, str],
    needs: Sequence[str],
    image_fields: Sequence[str] = IMAGE_FIELDS,
) -> Row:
    """`record` as a row. `columns` maps fields to columns, those among `image_fields` hold images; relative paths are
    relative to `folder`; the row must have the images among `needs`.
    """
    meta = {name: value for name, value in record.items() if name not in columns.values()}
    given = {name: record[column] for name, column in columns.items() if not is_missing(record.get(column))}
    row_id = str(given.pop("id", number))
    texts: dict[str, str] = {}
    images: dict[str, ImageLike] = {}
    wrong = []
    for name, value in given.items():
        if name in image_fields:
            try:
                images[name] = _image(value, folder)
            except ValueError as error:
                wrong.append(f"{name} should be {error} ({place})")
        elif isinstance(value, str | int | float):
            texts[name] = str(value)
        else:
            wrong.append(f"{name} should be text, got {_short(value)} ({place})")
    missing = [name for name in image_fields if name in needs and name not in given]
    wrong += [f"{name} image missing: the column {columns[name]!r} is empty" for name in missing]
    return Row(row_id, texts, images, meta, "; ".join(wrong) or None)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing, by the rule above."""
    if isinstance(value, str):
        return not value or value.strip().lower() == "nan"
    return value is None or (isinstance(value, float) and math.isnan(value))


def _image(value: Any, folder: Path) -> ImageLike:
    """A path, bytes, a data URL or base64, or what the image columns of Hugging Face hold: {"bytes": …, "path": …}."""
    if isinstance(value, Mapping):
        inside, path = value.get("bytes"), value.get("path")
        value = path if is_missing(inside) else inside
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"a path or image bytes, got {_short(value)}")
    try:
        encoded = encoded_bytes(value)
    except ValueError as error:
        raise ValueError(f"a path or image bytes, got {error}: {shortened(value)}") from None
    if encoded is not None:
        return encoded
    return value if is_address(value) else str(folder / value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
