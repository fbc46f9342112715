"""How scores look in a terminal: each row where there are few, what they come to, and what failed and why."""

__all__ = ["show"]

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmreward.batch import Rows, Scored
from mmreward.reward import Reward

FEW = 30
_EXAMPLES = 3


def show(scored: Sequence[Scored], reward: Reward, rows: Rows, out: Path | None, console: Console | None = None) -> int:
    """Print the result; returns the number of rows that failed (`not_applicable` is not a failure)."""
    console = console or Console(highlight=False)
    measures = ("overall", *reward.dims)
    console.print()
    if len(scored) <= FEW:
        console.print(_each(scored, measures))
    console.print(_summary(scored, measures))
    by_status = defaultdict(list)
    for one in scored:
        by_status[one.score.status].append(one)
    counts = " · ".join(f"{len(some)} {status}" for status, some in sorted(by_status.items(), key=lambda x: -len(x[1])))
    console.print(f"{len(scored)} rows of [bold]{rows.where.name}[/]: {counts}")
    for status, some in by_status.items():
        if status != "ok":
            _explain(console, status, some)
    if out:
        console.print(f"Scores are in [bold]{out}[/]")
    return sum(len(some) for status, some in by_status.items() if status not in ("ok", "not_applicable"))


def _each(scored: Sequence[Scored], measures: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("id", no_wrap=True, max_width=24)
    table.add_column("instruction", no_wrap=True, overflow="ellipsis", max_width=48)
    for name in measures:
        table.add_column(_title(name), justify="right")
    for one in scored:
        values = {"overall": one.score.overall, **one.score.dims}
        cells = [_coloured(values.get(name)) for name in measures]
        if not one.score.ok:
            cells[0] = Text(one.score.status, "yellow")
        table.add_row(Text(one.row.id), Text(one.row.instruction), *cells)
    return table


def _summary(scored: Sequence[Scored], measures: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for name in ("rows", "mean", "lowest", "1st quarter", "median", "3rd quarter", "highest"):
        table.add_column(name, justify="right")
    for name in measures:
        of = [{"overall": one.score.overall, **one.score.dims} for one in scored if one.score.ok]
        values = [row[name] for row in of if name in row]
        if not values:
            table.add_row(_title(name), "0", *["–"] * 6)
            continue
        quarters = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        numbers = (sum(values) / len(values), min(values), *quarters, max(values))
        table.add_row(_title(name), str(len(values)), *(f"{number:.3f}" for number in numbers))
    return table


def _explain(console: Console, status: str, some: Sequence[Scored]) -> None:
    """The reasons of one status, the most frequent first, each with the first rows it happened to."""
    reasons = defaultdict(list)
    for one in some:
        reasons[one.score.error].append(one.row.id)
    ordered = sorted(reasons.items(), key=lambda reason: -len(reason[1]))
    for error, ids in ordered[:_EXAMPLES]:
        where = ", ".join(ids[:_EXAMPLES]) + (", …" if len(ids) > _EXAMPLES else "")
        console.print(
            Text(
                f"  {status} × {len(ids)}: {error} (rows {where})"
                if len(ids) > 1
                else f"  {status}: {error} (row {where})",
                "yellow",
            )
        )
    if len(ordered) > _EXAMPLES:
        console.print(
            Text(f"  {status}: {sum(len(ids) for _, ids in ordered[_EXAMPLES:])} more, see the column error", "yellow")
        )


def _title(name: str) -> str:
    return name.replace("_", " ")


def _coloured(value: float | None) -> Text:
    if value is None or value != value:
        return Text("–", "dim")
    return Text(f"{value:.3f}", "green" if value >= 0.7 else "red" if value < 0.3 else "")
