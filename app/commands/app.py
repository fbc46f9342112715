"""`mmreward app`: look at edits and their scores in the browser."""

from __future__ import annotations

__all__ = ["app"]

from pathlib import Path
from typing import Annotated

import typer

LOOPBACK = "127.0.0.1"


def app(
    input: Annotated[
        Path | None,
        typer.Argument(help="JSONL, CSV or Parquet file, or a folder, of edits to pick from. Left out: bundled ones."),
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            "--reward", "-r", help="A reward, several times for several. [default: pixels, clip:tiny, vlm:tiny]"
        ),
    ] = None,
    map: Annotated[
        list[str] | None, typer.Option("--map", "-m", metavar="FIELD=COLUMN", help="A column that is called otherwise.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from here only.")
    ] = LOOPBACK,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="[default: the first free one from 7860]")] = None,
    open: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
) -> None:
    """Look at edits and their scores in the browser: side by side, with a slider and a difference map.

    Pick an example or upload a source and its edits. It stops with Ctrl-C.

    Examples:

        mmreward app

        mmreward app edits.jsonl --map edited=target --reward pixels --reward recommended
    """
    import os

    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # a bar for loading weights says nothing here
    from app.field_map import field_map
    from app.web.page import Page, examples_of
    from app.web.rewards import DEFAULT_REWARDS, PageRewards
    from mmreward.assets import example_edits
    from mmreward.batch import read_rows

    rows = read_rows(input or example_edits(), field_map(map or []))
    edits = [row.edit() for row in rows if row.error is None]
    if not edits:
        raise ValueError(f"{rows.where} holds no row with an instruction, a source and an edited image")
    page = Page(examples_of(edits), PageRewards(reward or DEFAULT_REWARDS))
    if host not in (LOOPBACK, "localhost", "::1"):
        typer.echo(
            f"Listening on {host}: anyone who reaches this machine can upload images and see the page.", err=True
        )
    blocks = page.blocks()
    blocks.queue(max_size=32)
    options = page.launch_options()
    _, address, _ = blocks.launch(server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **options)
    typer.echo(f"The page is at {address} (stop it with Ctrl-C)")
    if open:
        typer.launch(address)
    blocks.block_thread()
