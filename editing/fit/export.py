"""Writing an editor that was trained in the shapes world: its pipeline, and a card with what the oracle says of it."""

__all__ = ["Told", "write_editor"]

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from editing.editors.pipeline import PipelineEditor
from editing.fit.card import write_card
from editing.fit.held_out import HeldOut
from editing.fit.success import EditorSuccess
from mmreward.shapes import WORLD_VERSION
from mmreward.training import save_atomic


@dataclass(frozen=True)
class Told:
    """What the card of an editor says besides what is measured."""

    name: str
    summary: str
    data: str
    command: str
    seconds: float


def write_editor(
    editor: PipelineEditor, held_out: HeldOut, told: Told, out: Path, dtype: torch.dtype | None = None
) -> EditorSuccess:
    """Writes `editor`, stored as `dtype` (None: as it is), with its card; returns what the oracle says of the stored
    weights.
    """
    held: list[EditorSuccess] = []

    def write(partial: Path) -> None:
        editor.save(partial, dtype=dtype)
        stored = type(editor).load(partial, device=editor.device)
        held.append(held_out.measure(stored))
        about = {
            **json.loads((partial / "mmreward.json").read_text()),
            "name": told.name,
            "domain": "shapes",
            "world_version": WORLD_VERSION,
            "data": told.data,
            "command": told.command,
            "minutes": round(told.seconds / 60, 1),
            "numbers": held[0].numbers(held_out.steps, held_out.ceiling(stored.pipeline.vae)),
        }
        write_card(partial, about, told.summary)

    save_atomic(out, write)
    return held[0]
