"""`mmreward score`: scores for the edits in a file or a folder."""

__all__ = ["score"]

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmreward.batch import Rows, Scored, check_output, read_rows, score_rows, write_rows
from mmreward.reward import Reward, load_reward


def score(
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT", help="JSONL, CSV or Parquet file, or a folder, of edits. Left out: the bundled examples."
        ),
    ] = None,
    reward: Annotated[
        str, typer.Option("--reward", "-r", help="A reward: pixels, vlm:tiny, clip:tiny, recommended, or a YAML file.")
    ] = "recommended",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write: .parquet or .jsonl.")] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows handed to the reward at once.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Score edits: how well was the instruction followed, what was preserved, how good is the image?

    INPUT has the columns id, instruction, source and edited (and, where there are any, mask, reference, source_caption,
    target_caption, criteria); paths are relative to the file. A folder is a Hugging Face imagefolder, or holds one
    folder per edit with instruction.txt, source.png and the edited images.

    Exit code 0: all rows scored (or not applicable); 1: some failed, see the columns status and error; 2: wrong call.

    Examples:

        mmreward score
        mmreward score edits.jsonl --reward pixels --out scores.parquet
        mmreward score triplets.jsonl --map edited=target --reward pixels --out scores.jsonl
    """
    from app.score_table import show
    from mmreward.assets import example_edits

    out = check_output(out, overwrite) if out else None
    rows = read_rows(input or example_edits(), _mapping(map or []))
    messages = Console(stderr=True)
    with messages.status(f"loading {reward}"):
        loaded = load_reward(reward)
    scored = _with_progress(rows, loaded, batch_size, messages)
    if out:
        write_rows(out, scored, reward, loaded.dims)
    failed = show(scored, loaded, rows, out)
    if failed:
        raise typer.Exit(1)


def _with_progress(rows: Rows, reward: Reward, batch_size: int, console: Console) -> list[Scored]:
    columns = (
        TextColumn("scoring with {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(reward.name, total=rows.total)
        scored: list[Scored] = []
        try:
            for one in score_rows(rows, reward, batch_size):
                scored.append(one)
                progress.advance(task)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped after {len(scored)} of {rows.total} rows; nothing was written") from None
    return scored


def _mapping(pairs: list[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise ValueError(f"--map is written FIELD=COLUMN, for example --map edited=target; got {pair!r}")
        if field in mapping:
            raise ValueError(f"--map names the field {field!r} twice")
        mapping[field] = column
    return mapping
