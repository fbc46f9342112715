"""How good are the edits of an editor? The same tasks and the same starting noise every time ("paired noise"), so that
two evaluations differ by the weights alone.
"""

__all__ = ["Evaluation", "compare", "evaluate", "sample"]

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from editing.data import Task
from editing.deal import batches
from editing.editors.editor import Editor, NotFiniteError, images_or_failures
from editing.precision import AS_IT_IS, Precision
from editing.rollout import rollout
from editing.scored import scored
from editing.transition import ODE
from mmreward.reward import Reward
from mmreward.score import Failure, Score

_ENCODED = 64
"""Sources encoded at once; text encoders that are parked travel once for them."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one edit per task. A score that failed is left out of the mean and counted in `statuses`."""

    scores: tuple[Score, ...]
    images: tuple[Image.Image | None, ...]
    """None where the editor made none."""

    @property
    def overall(self) -> float:
        """Mean of `overall` over the edits that have one; NaN without any."""
        values = [score.overall for score in self.scores if score.ok]
        return math.fsum(values) / len(values) if values else math.nan

    @property
    def success(self) -> float | None:
        """Share of all tasks that succeeded, for rewards that say so in `raw`; an edit without a score is no
        success.
        """
        if not any("success" in score.raw for score in self.scores):
            return None
        return sum(bool(score.raw.get("success", 0)) for score in self.scores) / len(self.scores)

    @property
    def statuses(self) -> dict[str, int]:
        return dict(Counter(score.status for score in self.scores))

    @property
    def values(self) -> list[float | None]:
        """`overall` of each task to three decimals, None where it failed: what paired statistics need, short enough for
        every line of a log.
        """
        return [round(score.overall, 3) if score.ok else None for score in self.scores]

    def summary(self) -> dict[str, Any]:
        """For a JSON file."""
        found: dict[str, Any] = {"overall": self.overall, "tasks": len(self.scores), "statuses": self.statuses}
        for dim in sorted({dim for score in self.scores for dim in score.dims}):
            values = [score.dims[dim] for score in self.scores if score.ok and dim in score.dims]
            found[dim] = math.fsum(values) / len(values) if values else math.nan
        if self.success is not None:
            found["success"] = self.success
        return found


def sample(
    editor: Editor,
    tasks: Sequence[Task],
    steps: int,
    *,
    noise: str = "evaluation",
    batch: int = 64,
    precision: Precision = AS_IT_IS,
) -> list[Image.Image]:
    """One edit per task with the ODE, from the starting noise that belongs to (`noise`, task id), at the editor's own
    size (`Task.edit` brings it to its source's). Tasks of one bucket are sampled together.

    Raises `NotFiniteError` where an image is not finite.
    """
    images = []
    for task, image in zip(tasks, _sampled(editor, tasks, steps, noise, batch, precision), strict=True):
        if isinstance(image, Failure):
            raise NotFiniteError(f"{task.id}: {image.error}")
        images.append(image)
    return images


def _sampled(
    editor: Editor, tasks: Sequence[Task], steps: int, noise: str, batch: int, precision: Precision
) -> list[Image.Image | Failure]:
    images: dict[int, Image.Image | Failure] = {}
    sizes = [editor.edit_size(*task.source.size) for task in tasks]
    for some in batches(sizes, batch * max(1, _ENCODED // batch)):
        encoded = editor.encode([tasks[row].source for row in some], [tasks[row].instruction for row in some])
        for start in range(0, len(some), batch):
            rows = some[start : start + batch]
            condition = editor.collate(encoded[start : start + batch])
            x = torch.stack([editor.prior(f"{noise}/{tasks[row].id}", 0, condition.latent_shape) for row in rows])
            with torch.no_grad(), precision.forward():
                final = rollout(editor, condition, x, editor.schedule(steps, condition.latent_shape), ODE()).final
                images |= zip(rows, images_or_failures(editor.decode(final, condition)), strict=True)
    return [images[row] for row in range(len(tasks))]


def evaluate(
    editor: Editor,
    tasks: Sequence[Task],
    reward: Reward,
    steps: int,
    *,
    batch: int = 64,
    precision: Precision = AS_IT_IS,
) -> Evaluation:
    """Edit every task and score the edits; the reward sees known good results too. An edit that is not finite has a
    failed score.
    """
    images = _sampled(editor, tasks, steps, "evaluation", batch, precision)
    edits = [
        image if isinstance(image, Failure) else task.edit(image, with_target=True)
        for task, image in zip(tasks, images, strict=True)
    ]
    shown = (None if isinstance(edit, Failure) else edit.image("edited") for edit in edits)
    return Evaluation(tuple(scored(reward, edits)), tuple(shown))


def compare(before: Evaluation, after: Evaluation) -> dict[str, float]:
    """Mean change of `overall` over the tasks scored both times, with its standard error."""
    change = [b.overall - a.overall for a, b in zip(before.scores, after.scores, strict=True) if a.ok and b.ok]
    if len(change) < 2:
        return {"change": math.nan, "standard_error": math.nan, "pairs": len(change)}
    mean = math.fsum(change) / len(change)
    variance = math.fsum((value - mean) ** 2 for value in change) / (len(change) - 1)
    return {"change": mean, "standard_error": math.sqrt(variance / len(change)), "pairs": len(change)}
