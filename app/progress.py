"""A bar for rows that are being scored."""

__all__ = ["tracked"]

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Row = TypeVar("Row")


def tracked(score: Callable[[], Iterable[Row]], total: int, name: str, console: Console) -> Iterator[Row]:
    """What `score` gives, with a bar on `console`; Ctrl-C says how far it came."""
    columns = (
        TextColumn("scoring with {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    done = 0
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=total)
        try:
            for one in score():
                yield one
                done += 1
                progress.advance(task)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {done} of {total} rows; nothing was written") from None
