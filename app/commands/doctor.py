"""`mmreward doctor`: is a reward, and the server behind it, what one takes it for?"""

__all__ = ["doctor"]

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmreward.bench.check import Check

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_WIDEST = len("log-probabilities")


def doctor(
    reward: Annotated[
        str, typer.Option("--reward", "-r", help="A reward: openai:ADDRESS#MODEL, vlm:tiny, clip:tiny, or a YAML file.")
    ],
) -> None:
    """Ask a reward questions whose answers are known, and say what is wrong and how to mend it.

    A judge behind a server is checked first: does it answer, in which order does it see images, how many tokens do they
    cost, does it report log-probabilities, does it keep to sampling parameters. Then any reward scores small edits
    whose right order is known, twice, together and one by one, and rows that cannot be scored. Of a combination each
    member is asked, and the whole.

    Exit code 0: nothing is wrong (there may be warnings); 1: a check failed; 2: wrong call.

    Examples:

        mmreward doctor --reward vlm:tiny
        mmreward doctor --reward openai:http://127.0.0.1:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct
    """
    from mmreward.bench.doctor import examine

    checks: list[Check] = []
    with Console(stderr=True).status(f"loading {reward}") as status:
        for check in examine(reward):
            checks.append(check)
            status.update(f"asking ({' '.join(filter(None, (check.part, check.name, check.status)))})")
    console = Console(highlight=False)
    _show(checks, console)
    counts = {outcome: sum(check.status == outcome for check in checks) for outcome in _COLOURS}
    total = " · ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    console.print(Text(f"{reward}: {total}", "bold"))
    if counts["failed"]:
        raise typer.Exit(1)


def _show(checks: Sequence[Check], console: Console) -> None:
    """One table for each part of the reward, then what to do: words are folded, a command stays on one line."""
    for part, those in groupby(checks, key=lambda check: check.part):
        if part or checks[0].part:
            console.print(Text(part or "the whole", "bold"))
        console.print(_table(list(those)))
        console.print()
    for check in checks:
        if check.advice:
            name = f"{check.part} {check.name}".strip()
            console.print(Text(f"{name}: {check.advice}", _COLOURS[check.status]))
        if check.command:
            console.print(Text(f"  {check.command}"), soft_wrap=True)


def _table(checks: Sequence[Check]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True, min_width=_WIDEST)
    table.add_column("", no_wrap=True, min_width=7)
    table.add_column("found")
    for check in checks:
        table.add_row(Text(check.name), Text(check.status, _COLOURS[check.status]), Text(check.found))
    return table
