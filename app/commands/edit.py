"""`mmreward edit`: edits of an image, or of a whole data set, several candidates each, best first."""

__all__ = ["edit"]

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from editing.data import Task
    from editing.produce import Broken, Produced


def edit(
    input: Annotated[
        Path | None,
        typer.Argument(metavar="[INPUT]", help="A data set: JSONL, CSV or Parquet file, or a folder, as for `score`."),
    ] = None,
    editor: Annotated[
        str,
        typer.Option(
            "--editor", "-e", help="tiny or tiny-ip2p (bundled), a folder of a diffusers pipeline, or a hub id."
        ),
    ] = "tiny",
    source: Annotated[Path | None, typer.Option("--source", "-s", help="One image to edit.")] = None,
    instruction: Annotated[str | None, typer.Option("--instruction", "-i", help="What to do with it.")] = None,
    count: Annotated[int, typer.Option("--candidates", "-n", min=1, help="Edits of each source.")] = 4,
    reward: Annotated[
        str | None, typer.Option("--reward", "-r", help="Sort by this reward, best first; for example vlm:tiny.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Sort by this dimension of the reward instead of its overall.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the images and edits.jsonl.")] = Path("edits"),
    world: Annotated[
        str | None, typer.Option("--world", help="Tasks of a procedural world instead of an input: shapes.")
    ] = None,
    tasks: Annotated[int, typer.Option("--count", min=1, help="How many tasks of the world.")] = 64,
    start: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "validation",
    kinds: Annotated[
        str | None, typer.Option(help="Kinds of instruction, separated by commas; all if left out.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Sampling steps; the editor's own number if left out.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other candidates.")] = 0,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Edits sampled at once.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the best there is if left out.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again over what the folder holds.")] = False,
) -> None:
    """Edit images: N candidates for each source and instruction, sorted by a reward.

    Give one image (--source and --instruction), a data set (INPUT with the columns id, instruction and source), or
    --world shapes. The folder gets the images and edits.jsonl, which `mmreward score` reads. The same call goes on
    with a run that was stopped; a folder that holds other or finished edits is refused, unless --overwrite is given.

    Exit code 0: all edited; 1: some rows failed (see the columns status and error), or none was edited; 2: wrong call.

    Examples:

        mmreward edit --source a.png --instruction "make the circle blue" -n 8 --reward vlm:tiny --out edits
        mmreward edit triplets.jsonl --editor black-forest-labs/FLUX.1-Kontext-dev -n 4 --out edits
        mmreward edit --world shapes --count 512 --split validation -n 1 --out edits
        mmreward edit --world shapes --editor "runs/conditioned/model?asked=quality:0.5&score_guidance=1" --out edits
    """
    ways = [input is not None, source is not None or instruction is not None, world is not None]
    if sum(ways) != 1:
        raise ValueError("say what to edit: either INPUT, or --source with --instruction, or --world shapes")
    if (source is None) != (instruction is None):
        raise ValueError("--source and --instruction belong together; one of them is missing")
    if by is not None and reward is None:
        raise ValueError("--by names a dimension of a reward; say which with --reward")

    from editing.produce import Settings, check_folder, produce

    check_folder(out, overwrite)

    total: int
    if world is not None:
        total, work = tasks, _of_world(world, split, kinds, seed, start, tasks)
        described = f"{world} {split} {kinds or 'all kinds'} {start}-{start + tasks}"
    elif input is not None:
        total, work = _of_file(input, map or [])
        described = " ".join([f"{input}", *(map or [])])
    else:
        assert source is not None and instruction is not None
        total, work = 1, _of_image(source, instruction)
        described = f"{source}: {instruction}"

    from app.quiet import quiet
    from editing.editors import load_editor
    from mmreward.combine import with_overall
    from mmreward.reward import load_reward

    quiet()
    console = Console(stderr=True)
    with console.status(f"loading {editor}"):
        judge = with_overall(load_reward(reward), by) if reward else None
        loaded = load_editor(editor, device=device)
    settings = Settings(editor, count, steps or loaded.default_steps, seed, reward, described, by)

    def goes_on(done: int) -> None:
        console.print(f"{out} holds an unfinished run of this call: going on after {done} of {total} tasks")

    with Progress(
        TextColumn("editing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as progress:
        bar = progress.add_task("editing", total=total)
        try:
            result = produce(
                work,
                loaded,
                judge,
                settings,
                out,
                batch_size,
                on_task=lambda: progress.advance(bar),
                on_resume=goes_on,
                overwrite=overwrite,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; what is done is kept: run the same command again to go on") from None
    useful = any(row["edited"] if judge is None else row.get("overall") is not None for row in result.rows)
    _report(result, fine=("ok", "not_applicable") if useful else ("ok",))
    if result.failed or not useful:
        raise typer.Exit(1)


def _of_world(
    world: str, split: str, kinds: str | None, seed: int, start: int, count: int
) -> Iterator["Task | Broken"]:
    from editing.data import ShapesTasks, TaskConfig
    from mmreward.reward import unknown
    from mmreward.training import read_config

    if world != "shapes":
        raise unknown("world", world, ["shapes"])
    chosen = [kind.strip() for kind in kinds.split(",")] if kinds else None
    options: dict[str, Any] = {"split": split, "kinds": chosen, "seed": seed}
    made = ShapesTasks(read_config(TaskConfig, options, "--split and --kinds"))
    return (made.task(index) for index in range(start, start + count))


def _of_file(path: Path, pairs: list[str]) -> tuple[int, Iterator["Task | Broken"]]:
    from app.field_map import field_map
    from editing.data import Task
    from editing.produce import Broken
    from mmreward.batch import read_rows
    from mmreward.edit import ImageError, open_image

    rows = read_rows(path, field_map(pairs), needs=("instruction", "source"))

    def each() -> Iterator["Task | Broken"]:
        for row in rows:
            if row.error:
                yield Broken(row.id, row.instruction, row.error, meta=row.meta)
                continue
            try:
                image = open_image(row.images.get("source"), "source")
            except ImageError as error:
                yield Broken(row.id, row.instruction, error.message, error.status, row.meta)
                continue
            if not row.instruction.strip():
                yield Broken(row.id, "", "the instruction is empty", "not_applicable", row.meta)
                continue
            texts = {name: row.texts.get(name) for name in ("source_caption", "target_caption", "criteria")}
            yield Task(row.id, image, row.instruction, mask=row.images.get("mask"), meta=dict(row.meta), **texts)

    return rows.total, each()


def _of_image(source: Path, instruction: str) -> Iterator["Task | Broken"]:
    from editing.data import Task
    from mmreward.edit import ImageError, open_image

    if not instruction.strip():
        raise ValueError("--instruction is empty; say what to do with the image")
    try:
        image = open_image(str(source), "source")
    except ImageError as error:
        raise ValueError(error.message) from None
    return iter([Task(source.stem, image, instruction)])


def _report(result: "Produced", fine: tuple[str, ...]) -> None:
    """The best edits or their means; the reasons of the first rows whose status is not among `fine`; counts."""
    console = Console(highlight=False)
    rows = result.rows
    ranked = [row for row in rows if "rank" in row]
    if ranked and len({row["task"] for row in rows}) == 1:
        dims = list(ranked[0]["scores"])
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in ("rank", "overall", *(dim.replace("_", " ") for dim in dims), "status", "file"):
            table.add_column(name)
        for row in ranked:
            numbers = [row["overall"], *(row["scores"].get(dim) for dim in dims)]
            texts = ["–" if number is None else f"{number:.3f}" for number in numbers]
            table.add_row(str(row["rank"]), *texts, row["status"], row["edited"])
        console.print(table)
    elif ranked:
        scored = [row for row in ranked if row["overall"] is not None]
        best = [row["overall"] for row in scored if row["rank"] == 1]
        if best:
            mean = sum(row["overall"] for row in scored) / len(scored)
            console.print(f"mean overall {mean:.3f}; of the best of each task {sum(best) / len(best):.3f}")
    made = sum(row["edited"] is not None for row in rows)
    for row in [row for row in rows if row["status"] not in fine][:3]:
        console.print(f"{row['id']}: {row['status']}: {row.get('error')}", markup=False)
    left_out = sum(row["status"] == "not_applicable" and row["edited"] is None for row in rows)
    counts = f"{made} edits of {len({row['task'] for row in rows})} tasks, {result.failed} rows failed"
    console.print(counts + (f", {left_out} not applicable" if left_out else ""))
    console.print(f"Written to {result.file}")
