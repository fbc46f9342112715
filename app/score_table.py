"""How scores look in a terminal: each row where there are few, what they come to, and what failed and why."""

__all__ = ["how_to_score", "show", "unseen_instruction"]

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmreward.batch import STANDARD_OUTPUT, Rows, Scored
from mmreward.score import Score

FEW = 30
"""Up to this many rows are shown one by one."""
_EXAMPLES = 3
_ID_WIDTH = 26
_LEAST_INSTRUCTION = 20
_BLIND = {"preservation", "quality"}
"""Dimensions that can be measured without knowing what was asked for."""


class Measured(Protocol):
    """What a table needs to know of a reward."""

    @property
    def name(self) -> str: ...

    @property
    def dims(self) -> tuple[str, ...]: ...


def show(
    scored: Sequence[Scored], reward: Measured, rows: Rows, out: Path | None, console: Console | None = None
) -> bool:
    """Print the result, on standard error where the scores themselves go to standard output. Returns whether all is
    well: some row has a score, and none failed (`not_applicable` is not a failure).
    """
    console = console or Console(highlight=False, stderr=out == STANDARD_OUTPUT)
    has_overall = any(one.score.ok and one.score.has_overall for one in scored)
    measures = ("overall", *reward.dims) if has_overall or not reward.dims else reward.dims
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
    _line(console, f"{len(scored)} rows of {rows.where.name}, scored with {reward.name}: {counts}", "bold")
    for status in statuses:
        if status != "ok":
            _explain(console, status, by_status[status])
    if advice := how_to_score([one.score for one in scored], [one.row.instruction for one in scored], reward.name):
        _line(console, advice, "bold yellow")
    if out and out != STANDARD_OUTPUT:
        _line(console, f"Written to {out}")
    return bool(by_status["ok"]) and all(status in ("ok", "not_applicable") for status in statuses)


def how_to_score(scores: Sequence[Score], instructions: Sequence[str], reward: str) -> str | None:
    """What to do where no row has a score because the reward applies to none."""
    if any(score.status != "not_applicable" for score in scores):
        return None
    if not any(instruction.strip() for instruction in instructions):
        return "No row has a score: none has an instruction."
    return (
        f"No row has a score: {reward} applies to none of these edits. Photos are judged by a model that knows them, "
        "such as --reward vlm:Qwen/Qwen2.5-VL-7B-Instruct or --reward clip:ViT-B-32/laion2b_s34b_b79k; --reward pixels "
        "needs no model, and sees what was changed but not whether it was asked for."
    )


def unseen_instruction(reward: Measured) -> str | None:
    """The warning for a reward that would choose among edits and cannot know what was asked for."""
    if not reward.dims or not set(reward.dims) <= _BLIND:
        return None
    return (
        f"{reward.name} measures {' and '.join(reward.dims)} and not whether the instruction was followed: copies of "
        "the source that nobody edited may score best, and be kept. Use a judge, or a combination with one."
    )


def _line(console: Console, text: str, style: str = "") -> None:
    """One line, not broken at the width of the terminal: what stands in it may be a path that somebody copies."""
    console.print(Text(text, style), soft_wrap=True)


def _each(scored: Sequence[Scored], measures: Sequence[str], width: int) -> Table:
    titles = [_title(name) for name in measures]
    numbers = [max(len(word) for word in title.split()) for title in titles]
    ids = min(_ID_WIDTH, max(len("id"), *(len(one.row.id) for one in scored)))
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
        table.add_row(Text(_shortened(one.row.id, ids)), *cells)
        before = one.row.instruction
    return table


def _summary(scored: Sequence[Scored], measures: Sequence[str]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("rows", "mean", "min", "25 %", "median", "75 %", "max"):
        table.add_column(name, justify="right", min_width=6)
    for name in measures:
        of = [{"overall": one.score.overall, **one.score.dims} for one in scored]
        values = [row[name] for row in of if not math.isnan(row.get(name, math.nan))]
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
        _line(console, f"  {status}: {error} ({rows}{', …' if len(ids) > _EXAMPLES else ''})", "yellow")
    if left := sum(len(ids) for _, ids in ordered[_EXAMPLES:]):
        _line(console, f"  {status}: {left} more; the output's column `error` has them all", "yellow")


def _shortened(text: str, width: int) -> str:
    """A long id without its middle: what tells ids apart stands at their ends."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _coloured(value: float | None) -> Text:
    if value is None or math.isnan(value):
        return Text("–", "dim")
    return Text(f"{value:.3f}", "green" if value >= 0.7 else "red" if value < 0.3 else "")
