"""`mmreward score`: scores for the edits in a file or a folder."""

__all__ = ["score"]

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmreward.batch import check_output, read_rows, score_rows, write_rows
from mmreward.reward import load_reward


def score(
    input: Annotated[
        Path | None,
        typer.Argument(
            metavar="INPUT",
            help="JSONL, CSV or Parquet file, or a folder, of edits; - is JSONL on standard input. "
            "Left out: the bundled examples.",
        ),
    ] = None,
    reward: Annotated[
        str, typer.Option("--reward", "-r", help="A reward: pixels, vlm:tiny, clip:tiny, recommended, or a YAML file.")
    ] = "recommended",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write: .parquet or .jsonl, or - for JSONL.")
    ] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=1, help="Rows handed to the reward at once; more where it compares a whole group."),
    ] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Score edits: how well was the instruction followed, what was preserved, how good is the image?

    INPUT has the columns id, instruction, source and edited (and, where there are any, mask, target, source_caption,
    target_caption, criteria); paths are relative to the file. A folder is a Hugging Face imagefolder, or holds one
    folder per edit with instruction.txt, source.png and the edited images.

    Exit code 0: all rows scored (or not applicable); 1: some failed, see the columns status and error, or no row has a
    score; 2: wrong call.

    Examples:

        mmreward score
        mmreward score edits.jsonl --reward pixels --out scores.parquet
        mmreward score triplets.jsonl --map edited=target --reward pixels --out scores.jsonl
        mmreward score - --reward pixels --out - < edits.jsonl > scores.jsonl
    """
    from app.field_map import field_map
    from app.progress import tracked
    from app.score_table import show
    from mmreward.assets import example_edits

    out = check_output(out, overwrite) if out else None
    rows = read_rows(input or example_edits(), field_map(map or []))
    messages = Console(stderr=True)
    with messages.status(f"loading {reward}"):
        loaded = load_reward(reward)
    warn = partial(messages.print, style="yellow", markup=False, soft_wrap=True)
    scored = list(tracked(partial(score_rows, rows, loaded, batch_size, warn), rows.total, loaded.name, messages))
    if out:
        write_rows(out, scored, reward, loaded.dims)
    if not show(scored, loaded, rows, out):
        raise typer.Exit(1)
