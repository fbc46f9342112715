"""Tasks to train and evaluate on: a source image, an instruction, and what else is known.

They come from the shapes world or from a file of triplets (source, instruction, target, criteria): JSONL, CSV, Parquet,
an image folder or a dataset folder of Hugging Face; the same reader as `mmreward score`. A task set answers `task(i)`
for every i from 0 on; a file is dealt in a new order each time around.
"""

__all__ = ["FileTasks", "ShapesTasks", "Task", "TaskConfig", "Tasks", "load_tasks"]

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from mmreward.config import ConfigError
from mmreward.edit import Edit, ImageError, ImageLike, open_image

if TYPE_CHECKING:
    from mmreward.batch.rows import Row


@dataclass(frozen=True)
class Task:
    """One thing to do. `target` is a known good result, if there is one."""

    id: str
    source: Image.Image
    instruction: str
    source_caption: str | None = None
    target_caption: str | None = None
    target: ImageLike | None = None
    mask: ImageLike | None = None
    criteria: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def edit(self, image: ImageLike, with_target: bool = False) -> Edit:
        """`image` as an edit of this task; `with_target` shows the reward the known good result too."""
        return Edit(
            self.instruction,
            self.source,
            image,
            criteria=self.criteria,
            mask=self.mask,
            reference=self.target if with_target else None,
            source_caption=self.source_caption,
            target_caption=self.target_caption,
            id=self.id,
            meta=self.meta,
        )


class Tasks(Protocol):
    """A set of tasks."""

    def task(self, index: int) -> Task: ...


class TaskConfig(BaseModel, extra="forbid", frozen=True):
    """Where tasks come from: the shapes world, or the rows of `file`."""

    file: Path | None = None
    """Rows instead of the shapes world; the settings below `map` but `seed` are the shapes world's."""
    map: dict[str, str] = Field(default_factory=dict)
    """Names of columns in `file` that differ: our name -> its name."""
    split: Literal["train", "validation", "test"] = "train"
    kinds: tuple[str, ...] | None = None
    kept_out: Literal["exclude", "only", "include"] = "exclude"
    size: int = Field(default=64, ge=32)
    seed: int = 0


def load_tasks(config: TaskConfig) -> Tasks:
    """The tasks that `config` describes."""
    return FileTasks(config) if config.file else ShapesTasks(config)


class ShapesTasks:
    """Tasks of the shapes world, without end."""

    def __init__(self, config: TaskConfig) -> None:
        from mmreward.shapes import World

        self.world = World(config.split, config.seed, config.size, config.kinds, config.kept_out)

    def task(self, index: int) -> Task:
        made = self.world.task(index)
        return Task(
            id=made.id,
            source=Image.fromarray(made.source_image),
            instruction=made.instruction,
            source_caption=made.source_caption,
            target_caption=made.target_caption,
            target=Image.fromarray(made.target_image),
            meta={"kind": made.kind},
        )


class FileTasks:
    """Tasks from the rows of a file, in a new order each time around. A known good result is its column `reference` or
    `target`. Rows that lack something, and images that are not there, are refused before anything starts.
    """

    def __init__(self, config: TaskConfig) -> None:
        from mmreward.batch.inputs import read_rows

        assert config.file is not None
        self.file, self.seed = config.file, config.seed
        rows = read_rows(config.file, config.map, needs=("instruction", "source"), instead={"reference": "target"})
        self.rows = list(rows)
        if wrong := [(row, what) for row in self.rows if (what := _wrong(row))]:
            row, what = wrong[0]
            count = f"{len(wrong)} of {len(self.rows)} rows"
            raise ConfigError(f"{config.file}: {count} cannot be used; the first is row {row.id}: {what}")

    def task(self, index: int) -> Task:
        around, place = divmod(index, len(self.rows))
        row = self.rows[np.random.default_rng([self.seed, around]).permutation(len(self.rows))[place]]
        try:
            source = open_image(row.images["source"], "source")
        except ImageError as error:
            raise ConfigError(f"{self.file}: row {row.id}: {error.message}") from None
        texts = row.texts
        return Task(
            id=row.id if around == 0 else f"{row.id}/{around}",
            source=source,
            instruction=row.instruction,
            source_caption=texts.get("source_caption"),
            target_caption=texts.get("target_caption"),
            target=row.images.get("reference"),
            mask=row.images.get("mask"),
            criteria=texts.get("criteria"),
            meta=dict(row.meta),
        )


def _wrong(row: "Row") -> str | None:
    """Why there is no task in `row`, without opening its images."""
    if row.error:
        return row.error
    if not row.instruction.strip():
        return "the instruction is empty"
    for name in ("source", "reference", "mask"):
        image = row.images.get(name)
        if isinstance(image, str | Path) and not Path(image).is_file():
            return f"{name} image {str(image)!r} not found"
    return None
