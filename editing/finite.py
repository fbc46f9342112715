"""Images, or why there is none: a network that gives NaN or infinity has made no image, and none is made up for it."""

__all__ = ["finite_images"]

import torch
from PIL import Image
from torch import Tensor

from editing.editors.editor import to_images
from mmreward.score import Failure

_FAILURE = Failure(
    "error",
    "the editor's output is not finite (NaN or infinity): its weights are broken, or half precision overflows; load "
    "it with ?dtype=float32 and set loop.autocast: no to see which",
)


def finite_images(pixels: Tensor, latents: Tensor) -> list[Image.Image | Failure]:
    """[B, 3, H, W] in [0, 1] and the latents [B, ...] they were decoded from, as images; a row with a number that is
    not finite in either is a failure.
    """
    finite = torch.isfinite(pixels).flatten(1).all(1) & torch.isfinite(latents).flatten(1).all(1)
    images = to_images(torch.where(finite.view(-1, 1, 1, 1), pixels, 0))
    return [image if fine else _FAILURE for image, fine in zip(images, finite.tolist(), strict=True)]
