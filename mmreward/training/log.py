"""What a run tells people and programs: a JSONL file with one line per log point, and a progress line with the time
left.

On resume the JSONL file is cut back to the checkpoint's step, so that no step appears twice and none is missing.
"""

from __future__ import annotations

__all__ = ["JsonlLog", "Progress", "format_seconds", "read_log"]

import json
import math
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mmreward.strict_json import dumps


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONL log; a line cut off by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n") if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class JsonlLog:
    """Appends one JSON object per call to `write`; numbers that are not finite, at any depth, become null."""

    def __init__(self, path: Path, resumed_step: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [] if resumed_step is None else [line for line in read_log(path) if line.get("step", 0) <= resumed_step]
        partial = path.with_name(path.name + ".partial")
        partial.write_text("".join(dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(partial, path)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, entry: dict[str, Any]) -> None:
        self._stream.write(dumps(entry) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def format_seconds(seconds: float) -> str:
    """``1:05`` or ``2:03:04``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """A rich progress bar on a terminal; elsewhere a plain line at most every `every` seconds."""

    def __init__(self, title: str, every: float = 20.0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._title, self._every, self._last = title, every, -math.inf
        self._console = Console(stderr=True)
        self._bar: Bar | None = None
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f} %  {task.fields[text]}"),
                console=self._console,
                transient=False,
            )
            self._task = self._bar.add_task(title, total=1.0, text="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """One line that stays, above the bar where there is one."""
        self._console.print(text, style="bold red", highlight=False, markup=False, soft_wrap=True)

    def update(self, fraction: float, seconds: float, text: str) -> None:
        """Show that `fraction` of the work is done after `seconds`, with `text` (step, loss …)."""
        left = f"{format_seconds(seconds * (1 - fraction) / fraction)} left" if fraction > 0 else ""
        if self._bar:
            self._bar.update(self._task, completed=fraction, text=f"{text}  {left}")
        elif time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            self._console.print(f"{self._title}: {fraction:4.0%}  {text}  {left}", highlight=False, soft_wrap=True)
