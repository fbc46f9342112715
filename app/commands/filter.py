"""`mmreward filter`: the best part of a noisy set of triplets."""

__all__ = ["filter"]

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmreward.batch import STANDARD_OUTPUT, check_output, score_rows, write_rows
from mmreward.batch.filter import best, read_triplets, triplets
from mmreward.batch.images import check_images
from mmreward.combine import with_overall
from mmreward.reward import load_reward
from mmreward.score import Score


def filter(
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="JSONL, CSV or Parquet file, or a folder, of triplets; - is JSONL on standard input."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .parquet or .jsonl, or - for JSONL.")],
    keep: Annotated[
        float, typer.Option("--keep", "-k", min=0.0, max=1.0, help="Share of the scored rows to keep, best first.")
    ] = 0.3,
    reward: Annotated[
        str, typer.Option("--reward", "-r", help="A reward: pixels, vlm:tiny, clip:tiny, recommended, or a YAML file.")
    ] = "recommended",
    by: Annotated[
        str | None, typer.Option("--by", metavar="DIMENSION", help="Go by this dimension in place of the overall.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Write all rows; the column `kept` says which are the best.")
    ] = False,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows handed to the reward at once.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Keep the best part of a noisy set of triplets, by reward.

    INPUT has the columns id, instruction, source and target (or edited), and criteria, mask and captions where there
    are any; paths are relative to the file. The target is scored as an edit of the source. The output has the triplet,
    its scores and the judge's feedback (rationale), best part only or all; a training recipe takes it as
    `data: {file: OUT}`. A row without a score is counted and never kept. Of a table with both edited and target,
    `--map edited=…` says which is scored.

    Exit code 0: all rows scored (or not applicable); 1: some failed, --all shows why, or no row has a score; 2: wrong
    call.

    Examples:

        mmreward filter triplets.jsonl --reward vlm:tiny --keep 0.3 --out best.jsonl
        mmreward filter triplets.parquet --keep 0.5 --all --out scored.parquet
    """
    from app.field_map import field_map
    from app.progress import tracked
    from app.score_table import how_to_score, unseen_instruction

    if keep <= 0:
        raise ValueError("--keep 0 would keep nothing; give a share above 0, for example 0.3")
    out = check_output(out, overwrite)
    rows = read_triplets(input, field_map(map or []))
    check_images(rows, rows.where, out)
    messages = Console(stderr=True)
    warn = partial(messages.print, style="yellow", markup=False, soft_wrap=True)
    with messages.status(f"loading {reward}"):
        loaded = with_overall(load_reward(reward), by)
    if warning := unseen_instruction(loaded):
        warn(warning)
    scored = list(tracked(partial(score_rows, rows, loaded, batch_size, warn), rows.total, loaded.name, messages))
    scores = [one.score for one in scored]
    kept = best(scores, keep)
    console = Console(highlight=False, soft_wrap=True, stderr=out == STANDARD_OUTPUT)
    if any(kept) or every:
        write_rows(out, triplets(rows, scores, kept, every, out.parent), reward, loaded.dims)
    all_well = _report(console, scores, kept, rows.where.name, loaded.name)
    if advice := how_to_score(scores, [one.row.instruction for one in scored], loaded.name):
        console.print(advice, style="bold yellow", markup=False)
    if out != STANDARD_OUTPUT and (any(kept) or every):
        console.print(f"Written to {out}", markup=False)
    if not all_well:
        raise typer.Exit(1)


def _report(console: Console, scores: list[Score], kept: list[bool], name: str, reward: str) -> bool:
    """Says what was kept, and why rows have no score; returns whether all is well: some row has a score, and none
    failed (`not_applicable` is no failure).
    """
    best_scores = [score.overall for score, keep in zip(scores, kept, strict=True) if keep]
    overalls = [score.overall for score in scores if score.ok]
    if best_scores:
        console.print(
            f"Kept {len(best_scores)} of {len(scores)} rows of {name} by {reward}: scores from {min(best_scores):.3f} "
            f"(mean {_mean(best_scores):.3f}; of all {len(overalls)} scored {_mean(overalls):.3f})",
            markup=False,
        )
    else:
        console.print(f"No row of {name} was scored, so none is kept", markup=False)
    without = [score for score in scores if not score.ok]
    for status in dict.fromkeys(score.status for score in without):
        some = [score for score in without if score.status == status]
        console.print(f"  {len(some)} {status}, never kept: {some[0].error}", style="yellow", markup=False)
    return bool(overalls) and all(score.status == "not_applicable" for score in without)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
