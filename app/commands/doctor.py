"""`mmreward doctor`: is a reward, and the server behind it, what one takes it for?"""

__all__ = ["doctor"]

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmreward.bench.check import Check

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    reward: Annotated[
        str, typer.Option("--reward", "-r", help="A reward: openai:ADDRESS#MODEL, vlm:tiny, clip:tiny, or a YAML file.")
    ],
) -> None:
    """Ask a reward questions whose answers are known, and say what is wrong and how to mend it.

    A judge behind a server is checked first: does it answer, in which order does it see images, how many tokens do they
    cost, does it report log-probabilities, does it keep to sampling parameters. Then any reward scores small edits
    whose right order is known, twice, together and one by one.

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
            status.update(f"asking ({check.name} {check.status})")
    console = Console(highlight=False)
    _show(checks, console)
    counts = {outcome: sum(check.status == outcome for check in checks) for outcome in _COLOURS}
    total = " · ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    console.print(Text(f"{reward}: {total}", "bold"))
    if counts["failed"]:
        raise typer.Exit(1)


def _show(checks: Sequence[Check], console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found")
    for check in checks:
        table.add_row(Text(check.name), Text(check.status, _COLOURS[check.status]), Text(check.found))
    console.print(table)
    console.print()
    for check in checks:
        if check.advice:
            console.print(Text(f"{check.name}: {check.advice}", _COLOURS[check.status]), soft_wrap=True)
