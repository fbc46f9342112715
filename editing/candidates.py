"""Several edits of each task, sampled with the ODE from seeded starting noise."""

__all__ = ["candidates"]

from collections.abc import Sequence

import torch
from PIL import Image

from editing.deal import batches
from editing.editors.editor import Editor, images_or_failures
from editing.rollout import rollout
from editing.transition import ODE
from mmreward.score import Failure


def candidates(
    editor: Editor,
    sources: Sequence[Image.Image],
    instructions: Sequence[str],
    names: Sequence[str],
    members: int = 1,
    steps: int | None = None,
    batch: int = 64,
) -> list[list[Image.Image | Failure]]:
    """`members` edits of each source, at the editor's own size (`Task.edit` brings them to their source's). The noise
    of a member depends on its group's name and its number only, so a result does not depend on what else is in the
    batch. Sources of one bucket are sampled together. A member whose pixels are not finite is a `Failure`; the rest of
    its batch is not touched by it.
    """
    conditions = editor.encode(sources, instructions)
    work = [(row, member) for row in range(len(sources)) for member in range(members)]
    edits: list[list[Image.Image | Failure]] = [[] for _ in sources]
    for places in batches([conditions[row].size for row, _ in work], batch):
        part = [work[place] for place in places]
        condition = editor.collate([conditions[row] for row, _ in part])
        x = torch.stack([editor.prior(names[row], member, condition.latent_shape) for row, member in part])
        sigmas = editor.schedule(steps or editor.default_steps, condition.latent_shape)
        with torch.no_grad():
            final = rollout(editor, condition, x, sigmas, ODE()).final
            images = images_or_failures(editor.decode(final, condition))
        for (row, _), image in zip(part, images, strict=True):
            edits[row].append(image)
    return edits
