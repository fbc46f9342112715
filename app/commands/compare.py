"""`mmreward compare`: which of two edits of each source is better."""

__all__ = ["compare"]

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmreward.batch import STANDARD_OUTPUT, check_output
from mmreward.batch.images import check_images
from mmreward.batch.pairs import DIMS, compare_rows, read_pairs, write_pairs
from mmreward.combine import with_overall
from mmreward.preference import Comparer, comparer
from mmreward.reward import load_reward


@dataclass(frozen=True)
class _Measured:
    """What the table of scores needs to know of what made them."""

    name: str
    dims: tuple[str, ...] = DIMS


def compare(
    input: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="JSONL, CSV or Parquet file of pairs of edits; - is JSONL on standard input."
        ),
    ],
    reward: Annotated[
        str,
        typer.Option("--reward", "-r", help="A judge that compares, such as vlm:MODEL?way=pairwise; or any reward."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write: .parquet or .jsonl, or - for JSONL.")
    ] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="DIMENSION", help="Go by this dimension in place of the overall.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="For a reward that only scores: differences up to this are ties.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs handed to the reward at once.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file if it exists.")] = False,
) -> None:
    """Compare edits: which of two edits of the same source is better?

    INPUT has the columns id, instruction, source, first and second (and, where there are any, criteria, mask, …);
    paths are relative to the file. The output has the pair itself; p_first and p_tie, the probabilities that the first
    edit is the better one and that neither is; criterion, rater, weight, status and error; verdict, which is first,
    second or tie; and consistent, which says whether the judge preferred the same edit in both orders. A reward that
    does not compare is asked for both scores.

    Exit code 0: all pairs compared (or not applicable); 1: some failed, see the columns status and error, or none could
    be compared; 2: wrong call.

    Examples:

        mmreward compare pairs.jsonl --reward "vlm:Qwen/Qwen2.5-VL-7B-Instruct?way=pairwise" --out preferences.jsonl
        mmreward compare pairs.jsonl --map first=edit_a --map second=edit_b --reward vlm:tiny
    """
    from app.field_map import field_map
    from app.progress import tracked
    from app.score_table import show

    out = check_output(out, overwrite) if out else None
    rows = read_pairs(input, field_map(map or []))
    if out:
        check_images(rows, rows.where, out)
    messages = Console(stderr=True)
    with messages.status(f"loading {reward}"):
        loaded = load_reward(reward)
        compares_itself = by is None and isinstance(loaded, Comparer)
        judge = comparer(loaded if compares_itself else with_overall(loaded, by), margin)
    compared = list(tracked(partial(compare_rows, rows, judge, batch_size), rows.total, judge.name, messages))
    if out:
        write_pairs(out, rows, compared, f"{reward} by {by}" if by else reward)
    all_well = show([pair.scored for pair in compared], _Measured(judge.name), rows, out)
    preferences = [pair.preference for pair in compared if pair.preference.ok]
    if preferences:
        verdicts = Counter(preference.verdict for preference in preferences)
        counts = ", ".join(f"{name} {verdicts[name]}" for name in ("first", "tie", "second"))
        orders = [preference.consistent for preference in preferences if preference.consistent is not None]
        same = f"; both orders agreed in {sum(orders)} of {len(orders)}" if orders else ""
        Console(highlight=False, stderr=out == STANDARD_OUTPUT).print(f"Better: {counts}{same}")
    if not all_well:
        raise typer.Exit(1)
