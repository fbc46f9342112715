"""Edits of the shapes world of which everybody knows which is better."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from mmreward.edit import Edit
from mmreward.shapes import Task, World

__all__ = ["TASKS", "KnownTask", "invisibly_changed", "known_tasks"]

TASKS = 4
_INVISIBLE_SHARE = 0.01


@dataclass(frozen=True)
class KnownTask:
    """Edits of one task. Those of one source stand next to each other: first the true result, the untouched source and
    the same with an invisible change; then source and result exchanged, and company for it.
    """

    right: Edit
    copy: Edit
    invisible: Edit
    exchanged: Edit
    company: Edit

    @property
    def edits(self) -> tuple[Edit, ...]:
        return (self.right, self.copy, self.invisible, self.exchanged, self.company)


def known_tasks(targets: bool = False) -> list[KnownTask]:
    """The same tasks each time. `targets`: each edit also names its known good result."""
    return [_known_task(task, number, targets) for number, task in enumerate(World("validation", seed=0).tasks(TASKS))]


def invisibly_changed(image: Image.Image, seed: int = 0) -> Image.Image:
    """The image with one grey level more, or less, in 1 % of its pixels."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    rng = np.random.default_rng(seed)
    height, width, _ = pixels.shape
    places = rng.choice(height * width, int(height * width * _INVISIBLE_SHARE), replace=False)
    pixels.reshape(-1, 3)[places] += rng.choice(np.array([-1, 1], np.int16), (len(places), 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _known_task(task: Task, number: int, targets: bool) -> KnownTask:
    source, result = Image.fromarray(task.source_image), Image.fromarray(task.target_image)
    elsewhere = ImageOps.invert(result)  # a good result that exchanging the images does not reach

    def edit(before: Image.Image, after: Image.Image) -> Edit:
        return Edit(
            task.instruction,
            before,
            after,
            target=(result if before is source else elsewhere) if targets else None,
            source_caption=task.source_caption,
            target_caption=task.target_caption,
        )

    return KnownTask(
        right=edit(source, result),
        copy=edit(source, source),
        invisible=edit(source, invisibly_changed(source, number)),
        exchanged=edit(result, source),
        company=edit(result, result),
    )
