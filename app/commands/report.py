"""`mmreward report RUN`: write the page that shows what a training run did, also while it still goes on."""

__all__ = ["report"]

from pathlib import Path
from typing import Annotated

import typer


def report(run: Annotated[Path, typer.Argument(help="The output folder of a run of reward training.")]) -> None:
    """Write RUN/report.html from the files of a training run: curves, image grids, final measure, alarm.

    `mmreward train` does this at the end by itself; here it is for a run that still goes on, or was stopped.

    Example:

      mmreward report runs/grpo
    """
    from rich.console import Console

    from app.web.run_report import write_run_report

    Console(soft_wrap=True, highlight=False).print(f"Report: {write_run_report(run).resolve()}", markup=False)
