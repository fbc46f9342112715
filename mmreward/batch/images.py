"""Images as cells of a table that is written: paths relative to it, or the encoded bytes themselves (Parquet)."""

__all__ = ["check_images", "image_cells"]

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmreward.batch.output import STANDARD_OUTPUT
from mmreward.batch.rows import Row
from mmreward.edit import ImageLike
from mmreward.images.given import is_address


def check_images(rows: Iterable[Row], where: Path, out: Path) -> None:
    """Refuse, before any work is done, a format that cannot hold the images of `rows`, which were read from `where`."""
    if out.suffix.lower() == ".parquet":
        return
    for row in rows:
        if inside := next((name for name, image in row.images.items() if isinstance(image, bytes)), None):
            name = "a file.parquet" if out == STANDARD_OUTPUT else f"{out.stem}.parquet"
            raise ValueError(
                f"{where} holds its images itself (column of {inside!r}), which JSONL cannot; write {name}"
            )


def image_cells(images: Mapping[str, ImageLike], folder: Path) -> dict[str, Any]:
    """The images of a row as cells of a table in `folder`."""
    return {name: _cell(image, folder) for name, image in images.items()}


def _cell(image: ImageLike, folder: Path) -> Any:
    if isinstance(image, str | os.PathLike) and not is_address(str(image)):
        return os.path.relpath(Path(image).resolve(), folder.resolve())
    return image
