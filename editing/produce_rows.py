"""Some tasks of a data set of edits: sampled, scored, ranked, their images written; one row an edit.

One bad row never ends a job: a source outside the editor's domain, an image that is not finite and what a library
raises (out of memory, …) become rows with a status and a reason.
"""

__all__ = ["Broken", "Settings", "edit_tasks"]

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from editing.candidates import candidates
from editing.data import Task
from editing.editors.editor import Editor
from editing.folder_names import folder_name
from mmreward import domain
from mmreward.batch.columns import input_columns
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Failure, Score, Status

_OF_TASKS = ("id", "task", "instruction", "source", "source_caption", "target_caption", "criteria")
_OF_EDITS = ("edited", "editor", "steps", "seed", "member", "status", "error")
_OF_SCORES = ("rank", "overall", "scores", "reward")
_OWN = frozenset((*_OF_TASKS, *_OF_EDITS, *_OF_SCORES))
"""Columns that say something of the edits; an input's column of such a name says it of something else."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What decides the outcome; a killed run goes on only under the same."""

    editor: str
    members: int
    steps: int
    seed: int
    reward: str | None
    tasks: str
    """Where the tasks come from, in words."""
    by: str | None = None
    """The dimension that counts in place of the reward's overall."""


@dataclass(frozen=True)
class Broken:
    """A task that cannot be edited; it becomes one row with a status."""

    id: str
    instruction: str
    error: str
    status: Status = "io_error"
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Member:
    """One edit of a task, or why there is none; `score` where there is a reward."""

    number: int
    edit: Edit | Failure
    score: Score | None = None


def edit_tasks(
    some: Sequence[Task | Broken],
    editor: Editor,
    reward: Reward | None,
    settings: Settings,
    folder: Path,
    batch: int,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each task, in order; its images are written first."""
    checked = [_checked(task, editor, settings) for task in some]
    good = [task for task in checked if isinstance(task, Task)]
    made = _attempt(good, lambda tasks: _sampled(tasks, editor, settings, batch), settings.editor)
    members = {
        task.id: [_Member(number, group) for number in range(settings.members)] if isinstance(group, Failure) else group
        for task, group in zip(good, made, strict=True)
    }
    if reward is not None:
        groups = list(members.values())
        scored = _attempt(groups, lambda some: _scored(some, reward), reward.name)
        for task, group, scores in zip(good, groups, scored, strict=True):
            members[task.id] = _with_scores(group, scores)
    for row in checked:
        if isinstance(row, Broken):
            yield [_broken_row(row, settings)]
        else:
            yield _write(row, members[row.id], settings, folder)


def _checked(task: Task | Broken, editor: Editor, settings: Settings) -> Task | Broken:
    """A task whose source the editor was not made for is none. A source of one colour has nothing to spoil."""
    if isinstance(task, Broken) or task.source.getcolors(1):
        return task
    if domain.check(editor.domain, task.edit(task.source)) is None:
        return task
    spec = settings.editor
    error = (
        f"the source is not in the editor's domain ({editor.domain}), and it knows nothing else; for photos use an "
        "editor such as --editor black-forest-labs/FLUX.1-Kontext-dev, or insist with "
        f"--editor '{spec}{'&' if '?' in spec else '?'}domain=any'"
    )
    return Broken(task.id, task.instruction, error, "not_applicable", task.meta)


def _attempt(rows: Sequence[Item], make: Callable[[Sequence[Item]], list[Result]], name: str) -> list[Result | Failure]:
    """`make(rows)`, one result for each; where that raises, each row alone, so that only what raises alone fails."""
    if not rows:
        return []
    try:
        return [*make(rows)]
    except Exception as error:  # out of memory, or whatever a library raises
        failure = Failure("error", f"{name} raised {type(error).__name__}: {error}")
    if len(rows) == 1:
        return [failure]
    return [result for row in rows for result in _attempt([row], make, name)]


def _sampled(tasks: Sequence[Task], editor: Editor, settings: Settings, batch: int) -> list[list[_Member]]:
    names = [f"edit/{settings.seed}/{task.id}" for task in tasks]
    sources, texts = [task.source for task in tasks], [task.instruction for task in tasks]
    made = candidates(editor, sources, texts, names, settings.members, settings.steps, batch)
    return [
        [
            _Member(number, image if isinstance(image, Failure) else task.edit(image))
            for number, image in enumerate(images)
        ]
        for task, images in zip(tasks, made, strict=True)
    ]


def _scored(groups: Sequence[Sequence[_Member]], reward: Reward) -> list[list[Score]]:
    """Of the members that have an edit; those of a task are consecutive."""
    edits = [[member.edit for member in group if isinstance(member.edit, Edit)] for group in groups]
    flat = [edit for some in edits for edit in some]
    scores = list(reward.score(flat)) if flat else []
    if len(scores) != len(flat):
        raise RuntimeError(f"{len(scores)} scores for {len(flat)} edits")
    rest = iter(scores)
    return [list(islice(rest, len(some))) for some in edits]


def _with_scores(group: Sequence[_Member], scores: Sequence[Score] | Failure) -> list[_Member]:
    if isinstance(scores, Failure):
        failed = Score.failed(scores.status, scores.error)
        return [_Member(m.number, m.edit, failed if isinstance(m.edit, Edit) else None) for m in group]
    rest = iter(scores)
    return [_Member(m.number, m.edit, next(rest) if isinstance(m.edit, Edit) else None) for m in group]


# ---- rows


def _broken_row(task: Broken, settings: Settings) -> dict[str, Any]:
    row = {"id": task.id, "task": task.id, "instruction": task.instruction, "source": None, "edited": None}
    failed = {"status": task.status, "error": task.error}
    return {**row, **failed, **_no_score(settings), **input_columns(task.meta, _OWN)}


def _write(task: Task, members: Sequence[_Member], settings: Settings, folder: Path) -> list[dict[str, Any]]:
    """Writes the images of a task; its rows, best first."""
    place = Path("images") / folder_name(task.id)
    (folder / place).mkdir(parents=True, exist_ok=True)
    task.source.save(folder / place / "source.png")
    rows = []
    for rank, member in enumerate(sorted(members, key=_rank_key), 1):
        row: dict[str, Any] = {
            "id": task.id if settings.members == 1 else f"{task.id}/{member.number}",
            "task": task.id,
            "instruction": task.instruction,
            "source": str(place / "source.png"),
            "edited": None,
            "source_caption": task.source_caption,
            "target_caption": task.target_caption,
            "criteria": task.criteria,
            "editor": settings.editor,
            "steps": settings.steps,
            "seed": settings.seed,
            "member": member.number,
        }
        meta: Mapping[str, Any] = task.meta
        if isinstance(member.edit, Failure):
            row |= {"status": member.edit.status, "error": member.edit.error}
        else:
            meta = member.edit.meta or {}
            row |= {"edited": str(place / f"{rank}.png"), "status": "ok"}
            member.edit.image("edited").save(folder / row["edited"])
        row = {name: value for name, value in row.items() if value is not None or name == "edited"}
        rows.append({**row, **_score_columns(member.score, rank, settings), **input_columns(meta, _OWN)})
    return rows


def _score_columns(score: Score | None, rank: int, settings: Settings) -> dict[str, Any]:
    if score is None:
        return _no_score(settings)
    error = {} if score.error is None else {"error": score.error}
    columns = {"rank": rank, "overall": score.overall, "status": score.status, **error}
    return {**columns, "scores": dict(score.dims), "reward": settings.reward}


def _no_score(settings: Settings) -> dict[str, Any]:
    """Of a row that could not be scored; without a reward nothing is said of scores."""
    return {} if settings.reward is None else {"overall": None, "reward": settings.reward}


def _rank_key(member: _Member) -> float:
    """Members without a score come last, those without an edit after them; without a reward by number."""
    if isinstance(member.edit, Failure):
        return math.inf
    if member.score is None:
        return 0.0
    return -member.score.overall if member.score.ok else 2.0
