"""Tasks to train and evaluate on: a source image, an instruction, and what else is known.

They come from the shapes world or from a file of triplets (source, instruction, target, criteria): JSONL, CSV, Parquet,
an image folder or a dataset folder of Hugging Face; the same reader as `mmreward score`. A task set answers `task(i)`
for every i from 0 on; a file is dealt in a new order each time around, and `editing.deal` deals tasks of one shape
together.

An editor works in buckets of its own (`editing.editors.buckets`), and an edit has the size of its source: `Task.edit`
stretches it back, for the rewards and for the disk alike, and `meta["generated"]` says what size it came in.
"""

__all__ = ["FileTasks", "ShapesTasks", "Task", "TaskConfig", "Tasks", "load_tasks"]

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from mmreward.config import ConfigError
from mmreward.edit import Edit, ImageError, ImageLike, image_size, open_image

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
        """`image` as an edit of this task, at the size of the source; `with_target` shows the reward the known good
        result too.
        """
        meta = self.meta
        if isinstance(image, Image.Image) and image.size != self.source.size:
            meta = {**meta, "generated": f"{image.width}x{image.height}"}
            image = image.resize(self.source.size, Image.Resampling.BICUBIC)
        return Edit(
            self.instruction,
            self.source,
            image,
            criteria=self.criteria,
            mask=self.mask,
            target=self.target if with_target else None,
            source_caption=self.source_caption,
            target_caption=self.target_caption,
            id=self.id,
            meta=meta,
        )


class Tasks(Protocol):
    """A set of tasks."""

    def task(self, index: int) -> Task: ...


class TaskConfig(BaseModel, extra="forbid", frozen=True):
    """Where tasks come from: the shapes world, or the rows of `file`."""

    file: Path | None = None
    """Rows instead of the shapes world; the settings from `split` on, but `seed`, are the shapes world's."""
    map: dict[str, str] = Field(default_factory=dict)
    """Names of columns in `file` that differ: our name -> its name."""
    max_area: int | None = Field(default=None, ge=1)
    """Sources of `file` with more pixels are shrunk to it as they are read. Near the editor's own area a reward
    compares them with edits as they were made; far above it every edit is magnified and looks blurred beside its
    source."""
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
    """Tasks from the rows of a file, in a new order each time around. A known good result is its column `target`. Rows
    that lack something, and images that are not there, are refused before anything starts. Encoded images that stand in
    the table itself (Parquet, Arrow) stay in memory; where they are many, let it name files.
    """

    def __init__(self, config: TaskConfig) -> None:
        from mmreward.batch.inputs import read_rows

        assert config.file is not None
        self.file, self.seed, self.max_area = config.file, config.seed, config.max_area
        rows = read_rows(config.file, config.map, needs=("instruction", "source"))
        self.rows = list(rows)
        if wrong := [(row, what) for row in self.rows if (what := _wrong(row))]:
            row, what = wrong[0]
            count = f"{len(wrong)} of {len(self.rows)} rows"
            raise ConfigError(f"{config.file}: {count} cannot be used; the first is row {row.id}: {what}")

    def task(self, index: int) -> Task:
        around, place = divmod(index, len(self.rows))
        return self.of(int(np.random.default_rng([self.seed, around]).permutation(len(self.rows))[place]), around)

    def of(self, number: int, around: int) -> Task:
        """The task in row `number`, as it is dealt for the time `around`."""
        row = self.rows[number]
        try:
            source = open_image(row.images["source"], "source")
        except ImageError as error:
            raise ConfigError(f"{self.file}: row {row.id}: {error.message}") from None
        texts, size = row.texts, self._shrunk(source.size)
        return Task(
            id=row.id if around == 0 else f"{row.id}/{around}",
            source=source if size == source.size else source.resize(size, Image.Resampling.LANCZOS),
            instruction=row.instruction,
            source_caption=texts.get("source_caption"),
            target_caption=texts.get("target_caption"),
            target=row.images.get("target"),
            mask=row.images.get("mask"),
            criteria=texts.get("criteria"),
            meta=dict(row.meta),
        )

    def size(self, number: int) -> tuple[int, int]:
        """(width, height) of the source in row `number`, from its header."""
        row = self.rows[number]
        try:
            return self._shrunk(image_size(row.images["source"], "source"))
        except ImageError as error:
            raise ConfigError(f"{self.file}: row {row.id}: {error.message}") from None

    def _shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, math.sqrt((self.max_area or math.inf) / math.prod(size)))
        return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _wrong(row: "Row") -> str | None:
    """Why there is no task in `row`, without opening its images."""
    if row.error:
        return row.error
    if not row.instruction.strip():
        return "the instruction is empty"
    for name in ("source", "target", "mask"):
        image = row.images.get(name)
        if isinstance(image, str | Path) and not Path(image).is_file():
            return f"{name} image {str(image)!r} not found"
    return None
