"""How scores look in a terminal: each row where there are few, what they come to, and what failed and why."""

__all__ = ["show"]

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmreward.batch import Rows, Scored

FEW = 30
"""Up to this many rows are shown one by one."""
_EXAMPLES = 3
_ID_WIDTH = 26
_LEAST_INSTRUCTION = 20


class Measured(Protocol):
    """What a table needs to know of a reward."""

    @property
    def name(self) -> str: ...

    @property
    def dims(self) -> tuple[str, ...]: ...


def show(
    scored: Sequence[Scored], reward: Measured, rows: Rows, out: Path | None, console: Console | None = None
) -> int:
    """Print the result; returns the number of rows that failed (`not_applicable` is not a failure)."""
    console = console or Console(highlight=False)
    measures = ("overall", *reward.dims)
    by_status = defaultdict(list)
    for one in scored:
        by_status[one.score.status].append(one)
    console.print()
    if len(scored) <= FEW:
        console.print(_each(scored, measures, console.width))
        console.print()
    if by_status["ok"]:
        console.print(_summary(by_status["ok"], measures))
        console.print()
    statuses = sorted(
        (status for status in by_status if by_status[status]), key=lambda s: (s != "ok", -len(by_status[s]))
    )
    counts = " · ".join(f"{len(by_status[status])} {status}" for status in statuses)
    console.print(Text(f"{len(scored)} rows of {rows.where.name}, scored with {reward.name}: {counts}", "bold"))
    for status in statuses:
        if status != "ok":
            _explain(console, status, by_status[status])
    if out:
        console.print(Text(f"Written to {out}"))
    return sum(len(by_status[status]) for status in statuses if status not in ("ok", "not_applicable"))


def _each(scored: Sequence[Scored], measures: Sequence[str], width: int) -> Table:
    titles = [_title(name) for name in measures]
    numbers = [max(len(word) for word in title.split()) for title in titles]
    ids = min(_ID_WIDTH, max(len(one.row.id) for one in scored))
    left = width - ids - sum(numbers) - 3 * (len(numbers) + 2)
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("id", no_wrap=True, overflow="ellipsis", width=ids)
    if left >= _LEAST_INSTRUCTION:
        table.add_column("instruction", no_wrap=True, overflow="ellipsis", max_width=left)
    for title, number in zip(titles, numbers):
        table.add_column(title, justify="right", min_width=number)
    before = None
    for one in scored:
        if one.score.ok:
            cells = [_coloured({"overall": one.score.overall, **one.score.dims}.get(name)) for name in measures]
        else:
            cells = [Text(one.score.status, "yellow"), *[Text("–", "dim")] * (len(measures) - 1)]
        if left >= _LEAST_INSTRUCTION:
            cells.insert(0, Text("" if one.row.instruction == before else one.row.instruction))
        table.add_row(Text(one.row.id), *cells)
        before = one.row.instruction
    return table


def _summary(scored: Sequence[Scored], measures: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("rows", "mean", "min", "25 %", "median", "75 %", "max"):
        table.add_column(name, justify="right", min_width=6)
    for name in measures:
        of = [{"overall": one.score.overall, **one.score.dims} for one in scored]
        values = [row[name] for row in of if name in row]
        if not values:
            table.add_row(_title(name), "0", *["–"] * 6)
            continue
        quarters = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        numbers = (sum(values) / len(values), min(values), *quarters, max(values))
        table.add_row(_title(name), str(len(values)), *(f"{number:.3f}" for number in numbers))
    return table


def _explain(console: Console, status: str, some: Sequence[Scored]) -> None:
    """The reasons of one status, the most frequent first, each with the first rows that it happened to."""
    reasons = defaultdict(list)
    for one in some:
        reasons[one.score.error].append(one.row.id)
    ordered = sorted(reasons.items(), key=lambda reason: -len(reason[1]))
    for error, ids in ordered[:_EXAMPLES]:
        rows = f"row {ids[0]}" if len(ids) == 1 else f"{len(ids)} rows: {', '.join(ids[:_EXAMPLES])}"
        console.print(Text(f"  {status}: {error} ({rows}{', …' if len(ids) > _EXAMPLES else ''})", "yellow"))
    if left := sum(len(ids) for _, ids in ordered[_EXAMPLES:]):
        console.print(Text(f"  {status}: {left} more; the output's column `error` has them all", "yellow"))


def _title(name: str) -> str:
    return name.replace("_", " ")


def _coloured(value: float | None) -> Text:
    if value is None:
        return Text("–", "dim")
    return Text(f"{value:.3f}", "green" if value >= 0.7 else "red" if value < 0.3 else "")
