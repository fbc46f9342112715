"""Several edits of each task, sampled with the ODE from seeded starting noise."""

__all__ = ["candidates"]

from collections import defaultdict
from collections.abc import Sequence

import torch
from PIL import Image

from editing.editors.editor import Editor, to_images
from editing.rollout import rollout
from editing.transition import ODE


def candidates(
    editor: Editor,
    sources: Sequence[Image.Image],
    instructions: Sequence[str],
    names: Sequence[str],
    members: int = 1,
    steps: int | None = None,
    batch: int = 64,
) -> list[list[Image.Image]]:
    """`members` edits of each source. The noise of a member depends on its group's name and its number only, so a
    result does not depend on what else is in the batch. Sources of one resolution are sampled together.
    """
    conditions = editor.encode(sources, instructions)
    by_size: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for row, condition in enumerate(conditions):
        by_size[condition.size] += [(row, member) for member in range(members)]
    edits: list[list[Image.Image]] = [[] for _ in sources]
    for work in by_size.values():
        for start in range(0, len(work), batch):
            part = work[start : start + batch]
            condition = editor.collate([conditions[row] for row, _ in part])
            x = torch.stack([editor.prior(names[row], member, condition.latent_shape) for row, member in part])
            sigmas = editor.schedule(steps or editor.default_steps, condition.latent_shape)
            with torch.no_grad():
                images = to_images(editor.decode(rollout(editor, condition, x, sigmas, ODE()).final, condition))
            for (row, _), image in zip(part, images, strict=True):
                edits[row].append(image)
    return edits
