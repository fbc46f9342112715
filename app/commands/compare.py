"""`mmreward compare`: which of two edits of each source is better."""

__all__ = ["compare"]

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmreward.batch import check_output, write_rows
from mmreward.batch.pairs import DIMS, compare_rows, read_pairs
from mmreward.preference import comparer
from mmreward.reward import load_reward


@dataclass(frozen=True)
class _Measured:
    """What the table of scores needs to know of what made them."""

    name: str
    dims: tuple[str, ...] = DIMS


def compare(
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="JSONL, CSV or Parquet file of pairs of edits.")],
    reward: Annotated[
        str,
        typer.Option("--reward", "-r", help="A judge that compares, such as vlm:MODEL?way=pairwise; or any reward."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write: .parquet or .jsonl.")] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="For a reward that only scores: differences up to this are ties.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs handed to the reward at once.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Compare edits: which of two edits of the same source is better?

    INPUT has the columns id, instruction, source, first and second (and, where there are any, criteria, mask, …);
    paths are relative to the file. In the output first, tie and second are probabilities, overall is first + tie / 2,
    verdict is first, second or tie, and consistent says whether the judge preferred the same edit in both orders. A
    reward that does not compare is asked for both scores.

    Exit code 0: all pairs compared (or not applicable); 1: some failed, see the columns status and error; 2: wrong
    call.

    Examples:

        mmreward compare pairs.jsonl --reward "vlm:Qwen/Qwen2.5-VL-7B-Instruct?way=pairwise" --out preferences.jsonl
        mmreward compare pairs.jsonl --map first=edit_a --map second=edit_b --reward vlm:tiny
    """
    from app.field_map import field_map
    from app.progress import tracked
    from app.score_table import show

    out = check_output(out, overwrite) if out else None
    rows = read_pairs(input, field_map(map or []))
    messages = Console(stderr=True)
    with messages.status(f"loading {reward}"):
        judge = comparer(load_reward(reward), margin)
    compared = list(tracked(partial(compare_rows, rows, judge, batch_size), len(rows.first), judge.name, messages))
    if out:
        write_rows(out, compared, reward, DIMS)
    failed = show(compared, _Measured(judge.name), rows.first, out)
    verdicts = Counter(one.row.meta["verdict"] for one in compared if one.score.ok)
    if verdicts:
        told = ", ".join(f"{name} {verdicts[name]}" for name in ("first", "tie", "second"))
        orders = [one.row.meta["consistent"] for one in compared if one.score.ok]
        known = [one for one in orders if one is not None]
        same = f"; both orders agreed in {sum(known)} of {len(known)}" if known else ""
        Console(highlight=False).print(f"Better: {told}{same}")
    if failed:
        raise typer.Exit(1)
