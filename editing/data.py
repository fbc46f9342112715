"""Tasks to train and evaluate on: a source image, an instruction, and what else is known.

They come from the shapes world or from a file of triplets (source, instruction, target, criteria): JSONL, CSV, Parquet,
an image folder or a dataset folder of Hugging Face; the same reader as `mmreward score`. A task set answers `task(i)`
for every i from 0 on; a file is dealt in a new order each time around, and `editing.deal` deals tasks of one shape
together.

An editor works in buckets of its own (`editing.editors.buckets`), and an edit has the size of its source: `Task.edit`
stretches it back, for the rewards and for the disk alike, and `meta["generated"]` says what size it came in.
"""

__all__ = ["FileTasks", "ShapesTasks", "Task", "TaskConfig", "Tasks", "first_tasks", "load_tasks", "shuffled"]

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from mmreward.config import ConfigError
from mmreward.edit import Edit, ImageError, ImageLike, image_size, open_image
from mmreward.images.given import is_address
from mmreward.score import Failure

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
    """Rows instead of the shapes world; `split`, `kinds`, `kept_out` and `size` are for the shapes world only."""
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
    """Tasks from the rows of a file, in a new order each time around. A known good result is its column `target`.

    A row that cannot be used (a missing or broken source, no instruction) is left out, and `unreadable` says so: those
    that lack something at once, a broken image when its turn comes. In its place comes the next row of that order that
    can be read, so what is dealt depends on the file and the number of the task alone. Encoded images that stand in the
    table itself (Parquet, Arrow) stay in memory; where they are many, let it name files.
    """

    def __init__(self, config: TaskConfig) -> None:
        from mmreward.batch.inputs import read_rows

        assert config.file is not None
        self.file, self.seed, self.max_area = config.file, config.seed, config.max_area
        rows = list(read_rows(config.file, config.map, needs=("instruction", "source")))
        wrong = [(row, _wrong(row)) for row in rows]
        self.unreadable: dict[str, str] = {row.id: why for row, why in wrong if why}
        """Id of a row -> why it is left out."""
        self.rows = [row for row, why in wrong if not why]
        if not self.rows:
            raise ConfigError(f"{config.file}: none of its {len(rows)} rows can be used{_first(self.unreadable)}")

    def task(self, index: int) -> Task:
        around, place = divmod(index, len(self.rows))
        return self.dealt(shuffled(len(self.rows), self.seed, around), place, around)

    def first(self, count: int) -> list[Task]:
        """The first `count` tasks that can be read, no row twice before all were there."""
        found: list[Task] = []
        for index in itertools.count():
            around, place = divmod(index, len(self.rows))
            if place == 0 and around and not found:
                raise self._nothing_left(len(self.rows))
            row = self.rows[shuffled(len(self.rows), self.seed, around)[place]]
            source = self._source(row)
            if not isinstance(source, Failure):
                found.append(self._task(row, source, _name(row, around)))
            if len(found) == count:
                return found
        raise AssertionError  # there is no last number

    def dealt(self, order: Sequence[int] | NDArray[np.int64], place: int, around: int) -> Task:
        """The task of the row `order[place]`, dealt for the time `around`, or of the next one that can be read."""
        wanted = self.rows[order[place]]
        for step in range(len(order)):
            row = self.rows[order[(place + step) % len(order)]]
            source = self._source(row)
            if not isinstance(source, Failure):
                name = _name(row, around)
                return self._task(row, source, name if step == 0 else f"{name} for {wanted.id}")
        raise self._nothing_left(len(order))

    def size(self, number: int) -> tuple[int, int] | Failure:
        """(width, height) of the source in row `number`, from its header."""
        row = self.rows[number]
        try:
            return self._shrunk(image_size(row.images["source"], "source"))
        except ImageError as error:
            return self._left_out(row, error)

    def _source(self, row: "Row") -> Image.Image | Failure:
        try:
            return open_image(row.images["source"], "source")
        except ImageError as error:
            return self._left_out(row, error)

    def _left_out(self, row: "Row", error: ImageError) -> Failure:
        self.unreadable[row.id] = error.message
        return Failure(error.status, error.message)

    def _nothing_left(self, count: int) -> ConfigError:
        return ConfigError(f"{self.file}: none of {count} rows can be read{_first(self.unreadable)}")

    def _task(self, row: "Row", source: Image.Image, name: str) -> Task:
        texts, size = row.texts, self._shrunk(source.size)
        return Task(
            id=name,
            source=source if size == source.size else source.resize(size, Image.Resampling.LANCZOS),
            instruction=row.instruction,
            source_caption=texts.get("source_caption"),
            target_caption=texts.get("target_caption"),
            target=row.images.get("target"),
            mask=row.images.get("mask"),
            criteria=texts.get("criteria"),
            meta=dict(row.meta),
        )

    def _shrunk(self, size: tuple[int, int]) -> tuple[int, int]:
        scale = min(1.0, math.sqrt((self.max_area or math.inf) / math.prod(size)))
        return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def first_tasks(tasks: Tasks, count: int) -> list[Task]:
    """The tasks of an evaluation: the first `count`, without what cannot be read."""
    return tasks.first(count) if isinstance(tasks, FileTasks) else [tasks.task(index) for index in range(count)]


@lru_cache(maxsize=4)
def shuffled(count: int, *names: int) -> NDArray[np.int64]:
    """The numbers below `count` in the order that belongs to `names`."""
    return np.random.default_rng(names).permutation(count)


def _name(row: "Row", around: int) -> str:
    return row.id if around == 0 else f"{row.id}/{around}"


def _first(unreadable: Mapping[str, str]) -> str:
    return "".join(f"; the first is row {name}: {why}" for name, why in list(unreadable.items())[:1])


def _wrong(row: "Row") -> str | None:
    """Why there is no task in `row`, without opening its images."""
    if row.error:
        return row.error
    if not row.instruction.strip():
        return "the instruction is empty"
    for name in ("source", "target", "mask"):
        image = row.images.get(name)
        if isinstance(image, str | Path) and not Path(image).is_file():
            why = "is an address, and addresses are not fetched" if is_address(str(image)) else "not found"
            return f"{name} image {str(image)!r} {why}"
    return None
