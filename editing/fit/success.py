"""How good an editor is in the shapes world, by the oracle: success and mean overall on fixed scenes with fixed noise.

Noise is paired: each task has its own, the same as in `editing.evaluation`, so two editors are compared on the same
scenes and the same starting noise, and their difference has a smaller error than either number.
"""

__all__ = ["EditorSuccess", "editor_success"]

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from editing.candidates import candidates
from editing.editors.editor import Editor, NotFiniteError
from mmreward.score import Failure
from mmreward.shapes import Task, Truth, read, truth


@dataclass(frozen=True)
class EditorSuccess:
    """Shares over `count` tasks, with standard errors; overall is the mean of readable images only."""

    count: int
    success: float
    success_error: float
    overall: float
    overall_error: float
    unreadable: int
    by_kind: dict[str, float]
    """Success per kind of instruction."""
    truths: tuple[Truth, ...]
    """Per task, for paired differences."""

    def numbers(self, steps: int, ceiling: float) -> dict[str, float]:
        """For the card of an editor, beside the success of mere reconstructions."""
        return {
            "success of mere reconstructions (the ceiling)": round(ceiling, 3),
            f"success ({steps} steps, {self.count} validation scenes)": round(self.success, 3),
            "standard error": round(self.success_error, 3),
            "mean oracle overall": round(self.overall, 3),
            **{f"success: {kind}": round(share, 3) for kind, share in self.by_kind.items()},
        }

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {share:.2f}" for kind, share in self.by_kind.items())
        return (
            f"success {self.success:.3f} ± {self.success_error:.3f}, oracle overall {self.overall:.3f} "
            f"± {self.overall_error:.3f}, unreadable {self.unreadable} of {self.count} ({kinds})"
        )


def editor_success(editor: Editor, tasks: Sequence[Task], steps: int | None = None, batch: int = 64) -> EditorSuccess:
    """Edits each task once and lets the oracle judge."""
    images: list[Image.Image] = []
    for start in range(0, len(tasks), batch):
        part = tasks[start : start + batch]
        sources = [Image.fromarray(task.source_image) for task in part]
        names = [f"evaluation/{task.id}" for task in part]
        edits = candidates(editor, sources, [task.instruction for task in part], names, steps=steps, batch=batch)
        for (image,) in edits:
            if isinstance(image, Failure):
                raise NotFiniteError(image.error)
            images.append(image)
    readings = read([np.asarray(image) for image in images])
    truths = [truth(task.source, task.changes, reading) for task, reading in zip(tasks, readings, strict=True)]
    success = np.array([t.success for t in truths], dtype=float)
    overall = np.array([t.overall for t in truths])
    readable = overall[~np.isnan(overall)]
    kinds = sorted({task.kind for task in tasks})
    by_kind = {kind: float(success[[task.kind == kind for task in tasks]].mean()) for kind in kinds}
    return EditorSuccess(
        count=len(tasks),
        success=float(success.mean()),
        success_error=float(success.std() / max(len(success), 1) ** 0.5),
        overall=float(readable.mean()) if len(readable) else float("nan"),
        overall_error=float(readable.std() / len(readable) ** 0.5) if len(readable) else float("nan"),
        unreadable=len(truths) - len(readable),
        by_kind=by_kind,
        truths=tuple(truths),
    )
