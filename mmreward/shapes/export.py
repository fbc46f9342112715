"""Candidate edits of the shapes world as files, with their exact labels: images and `edits.jsonl`.

The bundled example edits are made by

    python -m mmreward.shapes.export assets/examples --kinds recolour,remove,add,move,background,replace --candidates 4

and any number of other ones likewise: `mmreward score FOLDER` reads what this writes.
"""

__all__ = ["export"]

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmreward.shapes.language import KINDS
from mmreward.shapes.world import Candidate, Task, World
from mmreward.strict_json import dumps


def export(folder: Path, kinds: Sequence[str], tasks: int, candidates: int, split: str, seed: int) -> int:
    """Write `tasks` tasks of each kind with `candidates` edits each, the true target first; returns the rows."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for position, kind in enumerate(kinds):
        world = World(split, seed, kinds=(kind,), kept_out="include")
        for number, task in enumerate(world.tasks(tasks, start=position * tasks)):
            name = kind if tasks == 1 else f"{kind}-{number}"
            _save(task.source_image, folder, f"{name}-source")
            seen: dict[str, int] = {}
            for candidate in world.candidates(task, candidates):
                seen[candidate.flaw] = seen.get(candidate.flaw, 0) + 1
                again = f"-{seen[candidate.flaw]}" if seen[candidate.flaw] > 1 else ""
                row_id = f"{name}-{'right' if candidate.flaw == 'none' else candidate.flaw}{again}"
                rows.append(_row(task, candidate, name, row_id))
                _save(candidate.image, folder, row_id)
    (folder / "edits.jsonl").write_text("".join(dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def _row(task: Task, candidate: Candidate, name: str, row_id: str) -> dict[str, str | float]:
    return {
        "id": row_id,
        "instruction": task.instruction,
        "source": f"images/{name}-source.png",
        "edited": f"images/{row_id}.png",
        "source_caption": task.source_caption,
        "target_caption": task.target_caption,
        "kind": task.kind,
        "flaw": candidate.flaw,
        "oracle_label": round(candidate.truth.overall, 4),
    }


def _save(image: np.ndarray, folder: Path, name: str) -> None:
    Image.fromarray(image).save(folder / "images" / f"{name}.png", optimize=True)


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", default=",".join(KINDS), help="kinds of instruction, separated by commas")
    parser.add_argument("--tasks", type=int, default=1, help="tasks of each kind")
    parser.add_argument("--candidates", type=int, default=4, help="edits of each task, the true target among them")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    kinds = arguments.kinds.split(",")
    rows = export(arguments.folder, kinds, arguments.tasks, arguments.candidates, arguments.split, arguments.seed)
    print(f"{rows} edits in {arguments.folder / 'edits.jsonl'}")


if __name__ == "__main__":
    _main()
