"""A data set of edits: tasks in, a folder of images and `edits.jsonl` out, which `mmreward score` reads.

    FOLDER/edits.jsonl            one row an edit: id, instruction, source, edited, member, rank, score columns, …
    FOLDER/images/<id>/source.png, 1.png, 2.png …       with a reward the edits of a task are numbered best first

What is saved is what was scored, at the size of the source; `generated` says in which size the editor made it, where
that is another (`editing.data.Task.edit`). Columns of the input stand beside those of the edit, under the name
`input_NAME` where it is taken. A row that could not be edited has no image, a status and a reason.

Rows are appended to `edits.jsonl.part`, a whole task at a time, and the file gets its name when all are there; a run
that was killed goes on where it was, if its settings are the same.
"""

__all__ = ["Broken", "Produced", "Settings", "check_folder", "produce"]

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from editing.data import Task
from editing.editors.editor import Editor
from editing.produce_rows import Broken, Settings, edit_tasks
from mmreward.atomic import save_file_atomic
from mmreward.reward import Reward
from mmreward.strict_json import dumps


@dataclass(frozen=True)
class Produced:
    """What is in the folder now. `rows` are those of `edits.jsonl`; `failed` counts rows without an edit or score."""

    file: Path
    rows: list[dict[str, Any]]
    failed: int


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuses a finished data set in `folder`, unless it is to be overwritten."""
    if (folder / "edits.jsonl").exists() and not overwrite:
        raise FileExistsError(
            f"{folder} already holds edits (edits.jsonl); add --overwrite to start again, or choose another folder "
            "with --out"
        )


def produce(
    tasks: Iterable[Task | Broken],
    editor: Editor,
    reward: Reward | None,
    settings: Settings,
    folder: Path,
    batch: int = 64,
    on_task: Callable[[], None] = lambda: None,
    on_resume: Callable[[int], None] = lambda done: None,
    overwrite: bool = False,
) -> Produced:
    """Edits each task `settings.members` times into `folder`; ids of tasks are unique.

    `on_task` is called after each task, `on_resume` once with the number of tasks that an unfinished run has done.
    With `overwrite`, what an earlier run wrote is removed first. Raises ValueError for an unfinished run of other
    settings, FileExistsError for a finished one.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    editor.schedule(settings.steps, (256, 1))  # refuses a number of steps that the editor does not have
    folder.mkdir(parents=True, exist_ok=True)
    if overwrite:
        _clear(folder)
    final, part = folder / "edits.jsonl", folder / "edits.jsonl.part"
    done = _resume(folder, part, settings)
    if done:
        on_resume(len(done))
    with part.open("a", encoding="utf-8", errors="backslashreplace") as file:
        rest = _skip(tasks, done, on_task)
        while some := list(islice(rest, max(1, batch // settings.members))):
            for rows in edit_tasks(some, editor, reward, settings, folder, batch):
                file.write("".join(dumps(row) + "\n" for row in rows))
                file.flush()
                on_task()
    part.rename(final)
    (folder / "settings.json").unlink(missing_ok=True)
    written = [json.loads(line) for line in final.read_text(encoding="utf-8").split("\n") if line]
    return Produced(final, written, sum(row["status"] not in ("ok", "not_applicable") for row in written))


# ---- going on


def _clear(folder: Path) -> None:
    for name in ("edits.jsonl", "edits.jsonl.part", "settings.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "images", ignore_errors=True)


def _resume(folder: Path, part: Path, settings: Settings) -> set[str]:
    """Ids of the tasks whose rows are all there; a task that was cut off is dropped from the file."""
    file = folder / "settings.json"
    now = asdict(settings)
    if part.exists():
        _check_settings(folder, json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}, now)
    save_file_atomic(file, lambda partial: _write_text(partial, dumps(now) + "\n"))
    if not part.exists():
        return set()
    lines: dict[str, list[bytes]] = {}
    whole: set[str] = set()
    for line in part.read_bytes().split(b"\n")[:-1]:  # what follows the last line break was cut off
        row = json.loads(line)
        lines.setdefault(row["task"], []).append(line)
        if "member" not in row or len(lines[row["task"]]) == settings.members:
            whole.add(row["task"])
    kept = b"".join(line + b"\n" for task, rows in lines.items() if task in whole for line in rows)
    save_file_atomic(part, lambda partial: _write_bytes(partial, kept))
    return whole


def _check_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [f"{name} {before.get(name)!r}, now {now[name]!r}" for name in now if before.get(name) != now[name]]
    if different:
        raise ValueError(
            f"{folder} holds an unfinished run with other settings ({'; '.join(different)}); repeat its call to go "
            "on, add --overwrite to start again, or choose another folder with --out"
        )


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _write_bytes(file: Path, data: bytes) -> None:
    file.write_bytes(data)


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
