"""The oracle of the shapes world as a reward, for measuring other rewards and as an upper bound.

It reads the scenes of source and edit from their pixels, parses the instruction, and compares. It is exact for edits
without artefacts and with noise, and misreads about one in fifty that are blurred and one in sixteen that are made of
blocks; the definition of the numbers and of that error stands in `mmreward.shapes.oracle`. Outside the shapes world it
is `not_applicable`.
"""

__all__ = ["OracleReward", "load"]

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from mmreward.edit import Edit, ImageError, fit
from mmreward.reward import unknown
from mmreward.rewards.base import Pointwise
from mmreward.score import Failure, Score
from mmreward.shapes import READING, WORLD_VERSION, LanguageError, Reading, Scene, parse, read, truth
from mmreward.shapes.language import Change

_KEPT = 1024


def load(model: str = "", **options: str) -> "OracleReward":
    """`oracle` takes neither a model nor options."""
    if model:
        raise ValueError(f"the reward 'oracle' has no models; write 'oracle', not 'oracle:{model}'")
    for option in options:
        raise unknown("option of 'oracle'", option, [])
    return OracleReward()


@dataclass(frozen=True)
class _Task:
    """What the source shows and what the instruction asks for."""

    scene: Scene
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class _Row:
    task: _Task
    edited: Image.Image


class OracleReward(Pointwise):
    """`overall` = following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality); `raw` has success (0 or 1)."""

    name = "oracle"
    dims = ("instruction_following", "preservation", "quality")
    batch = 256
    _provenance = {"reward": name, "world_version": WORLD_VERSION, "reading": READING}

    def __init__(self) -> None:
        self._tasks: dict[str, _Task | Failure] = {}

    def applies(self, edit: Edit) -> Failure | None:
        """It applies where source and instruction are of the shapes world."""
        task = self._task(edit)
        return task if isinstance(task, Failure) else None

    def prepare(self, edit: Edit) -> _Row | Failure:
        source, edited = edit.image("source"), edit.image("edited")
        fitted = fit(edited, source.size)
        if fitted is None:
            raise ImageError(
                f"edited image is {edited.width}x{edited.height} and the source {source.width}x{source.height}: their "
                "aspect ratios differ by more than 2 %, so the scenes cannot be compared",
                "not_applicable",
            )
        task = self._task(edit)
        return task if isinstance(task, Failure) else _Row(task, fitted)

    def measure(self, rows: Sequence[_Row]) -> list[Score | Failure]:
        return [
            _score(row.task, reading) for row, reading in zip(rows, read([row.edited for row in rows]), strict=True)
        ]

    def _task(self, edit: Edit) -> _Task | Failure:
        """Candidates of one source and instruction share their task, which is read once."""
        task = self._tasks.get(edit.group)
        if task is None:
            task = _read_task(edit)
            if len(self._tasks) >= _KEPT:
                self._tasks.clear()
            self._tasks[edit.group] = task
        return task


def _read_task(edit: Edit) -> _Task | Failure:
    if not edit.instruction.strip():
        return Failure("not_applicable", "the instruction is empty")
    (source,) = read([edit.image("source")])
    if source.scene is None:
        why = "the source is not an image of the shapes world; the oracle knows nothing else"
        return Failure("not_applicable", why)
    try:
        return _Task(source.scene, parse(edit.instruction, source.scene))
    except LanguageError as error:
        return Failure("not_applicable", f"the instruction is not one of the shapes world: {error}")


def _score(task: _Task, edited: Reading) -> Score | Failure:
    if edited.scene is None:
        return Failure("parse_error", "the edited image is unreadable: it matches no scene of the shapes world")
    labels = truth(task.scene, task.changes, edited)
    dims = {
        "instruction_following": labels.following,
        "preservation": labels.preservation,
        "quality": labels.quality,
    }
    raw = {"success": float(labels.success), "residual": edited.residual}
    return Score(labels.overall, dims, raw=raw)
