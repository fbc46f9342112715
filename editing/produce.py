"""A data set of edits: tasks in, a folder of images and `edits.jsonl` out, which `mmreward score` reads.

    FOLDER/edits.jsonl            one row an edit: id, instruction, source, edited, member, rank, score columns, …
    FOLDER/images/<id>/source.png, 1.png, 2.png …       with a reward the edits of a task are numbered best first

What is saved is what was scored, at the size of the source; `generated` says in which size the editor made it, where
that is another (`editing.data.Task.edit`).

Rows are appended to `edits.jsonl.part`, a whole task at a time, and the file gets its name when all are there; a run
that was killed goes on where it was, if its settings are the same.
"""

__all__ = ["Produced", "Settings", "produce"]

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from editing.candidates import candidates
from editing.data import Task
from editing.editors.editor import Editor
from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Score


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


@dataclass(frozen=True)
class Produced:
    """What is in the folder now. `rows` are those of `edits.jsonl`; `failed` counts rows without an edit or score."""

    file: Path
    rows: list[dict[str, Any]]
    failed: int


@dataclass(frozen=True)
class Broken:
    """A task that cannot be read; it becomes a row with a status."""

    id: str
    instruction: str
    error: str
    status: str = "io_error"


def produce(
    tasks: Iterable[Task | Broken],
    editor: Editor,
    reward: Reward | None,
    settings: Settings,
    folder: Path,
    batch: int = 64,
    on_task: Callable[[], None] = lambda: None,
) -> Produced:
    """Edits each task `settings.members` times into `folder`; ids of tasks are unique."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    final, part = folder / "edits.jsonl", folder / "edits.jsonl.part"
    done = _resume(folder, part, settings)
    with part.open("a", encoding="utf-8") as file:
        rest = _skip(tasks, done, on_task)
        while some := list(islice(rest, max(1, batch // settings.members))):
            for rows in _edit(some, editor, reward, settings, folder, batch):
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
                file.flush()
                on_task()
    part.rename(final)
    (folder / "settings.json").unlink(missing_ok=True)
    written = [json.loads(line) for line in final.read_text(encoding="utf-8").splitlines()]
    return Produced(final, written, sum(row["status"] not in ("ok", "not_applicable") for row in written))


def _resume(folder: Path, part: Path, settings: Settings) -> set[str]:
    """Ids of the tasks whose rows are all there; a task that was cut off is dropped from the file."""
    file = folder / "settings.json"
    if part.exists() and file.exists() and json.loads(file.read_text()) != asdict(settings):
        raise ValueError(
            f"{folder} holds an unfinished run with other settings ({file.read_text().strip()}); "
            "choose another folder, or remove it"
        )
    file.write_text(json.dumps(asdict(settings)) + "\n")
    if not part.exists():
        return set()
    rows: dict[str, list[str]] = {}
    for line in part.read_text(encoding="utf-8").split("\n")[:-1]:
        rows.setdefault(json.loads(line)["task"], []).append(line)
    whole = {
        name: lines for name, lines in rows.items() if len(lines) == settings.members or '"edited": null' in lines[0]
    }
    part.write_text("".join(line + "\n" for lines in whole.values() for line in lines), encoding="utf-8")
    return set(whole)


def _skip(tasks: Iterable[Task | Broken], done: set[str], on_task: Callable[[], None]) -> Iterator[Task | Broken]:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"the id {task.id!r} occurs twice; ids name the folders of the edits, so make them unique")
        seen.add(task.id)
        if task.id in done:
            on_task()
        else:
            yield task


def _edit(
    some: Sequence[Task | Broken],
    editor: Editor,
    reward: Reward | None,
    settings: Settings,
    folder: Path,
    batch: int,
) -> Iterator[list[dict[str, Any]]]:
    good = [task for task in some if isinstance(task, Task)]
    names = [f"edit/{settings.seed}/{task.id}" for task in good]
    sources, texts = [task.source for task in good], [task.instruction for task in good]
    made = candidates(editor, sources, texts, names, settings.members, settings.steps, batch) if good else []
    edits = [[task.edit(image) for image in images] for task, images in zip(good, made, strict=True)]
    scores: list[Score] = []
    if reward is not None:
        scores = reward.score([edit for members in edits for edit in members])
    position = 0
    for task in some:
        if isinstance(task, Broken):
            given = {"id": task.id, "task": task.id, "instruction": task.instruction, "source": None, "edited": None}
            yield [{**given, "status": task.status, "error": task.error}]
            continue
        own = scores[position * settings.members : (position + 1) * settings.members]
        yield _write(task, edits[position], own, settings, folder)
        position += 1


def _write(
    task: Task, edits: Sequence[Edit], scores: Sequence[Score], settings: Settings, folder: Path
) -> list[dict[str, Any]]:
    place = Path("images") / _file_name(task.id)
    (folder / place).mkdir(parents=True, exist_ok=True)
    task.source.save(folder / place / "source.png")
    order = sorted(range(len(edits)), key=lambda member: _rank_key(scores[member]) if scores else 0.0)
    rows = []
    for rank, member in enumerate(order, 1):
        image = place / f"{rank}.png"
        edits[member].image("edited").save(folder / image)
        row: dict[str, Any] = {
            "id": task.id if len(edits) == 1 else f"{task.id}/{member}",
            "task": task.id,
            "instruction": task.instruction,
            "source": str(place / "source.png"),
            "edited": str(image),
            "source_caption": task.source_caption,
            "target_caption": task.target_caption,
            "criteria": task.criteria,
            **(edits[member].meta or {}),
            "editor": settings.editor,
            "steps": settings.steps,
            "seed": settings.seed,
            "member": member,
            "status": "ok",
        }
        if scores:
            score = scores[member]
            row |= {"rank": rank, "overall": _number(score.overall), "status": score.status, "error": score.error}
            row |= {"scores": {name: _number(value) for name, value in score.dims.items()}, "reward": settings.reward}
        rows.append({name: value for name, value in row.items() if value is not None or name in ("edited", "overall")})
    return rows


def _rank_key(score: Score) -> float:
    return math.inf if math.isnan(score.overall) else -score.overall


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".") or "_"
