"""Images as tensors: what every differentiable reward checks, and which rows it leaves without a score.

One contract for all of them (`mmreward.reward.Differentiable`). Images are float [B, 3, H, W] in [0, 1]; source and
edited may differ in size. A row that `score` would answer with a status is NaN and has no gradient, because a tensor
holds no status: the instruction is empty, the source lies outside of the model's domain, a pixel is not finite, or the
reward has no number for it. What is wrong with the whole call (another shape, integers, 0 to 255, not one instruction
for each image) is a ValueError.
"""

from __future__ import annotations

__all__ = ["check_images", "score_tensors"]

from collections.abc import Callable, Sequence

import torch
from PIL import Image
from torch import Tensor

from mmreward.domain import ANY, check
from mmreward.edit import Edit

_SLACK = 1e-3
"""How far rounding may take an image out of [0, 1]."""

Score = Callable[[Tensor, Tensor, list[str]], Tensor]


def score_tensors(
    score: Score, source: Tensor, edited: Tensor, instructions: Sequence[str], domain: str = ANY
) -> Tensor:
    """`score(source, edited, instructions)` -> [N] of the rows that can be scored, NaN in the others: float32 [B] (or
    float64, where the images are). Raises ValueError by the contract of this module.
    """
    check_images(source, edited, instructions)
    rows = [row for row, text in enumerate(instructions) if _can_be_scored(source[row], edited[row], text, domain)]
    scores = edited.new_full((len(instructions),), torch.nan, dtype=torch.promote_types(edited.dtype, torch.float32))
    if not rows:
        return scores
    values = score(source[rows], edited[rows], [instructions[row] for row in rows])
    return scores.index_put((torch.tensor(rows, device=scores.device),), values.to(scores))


def check_images(source: Tensor, edited: Tensor, instructions: Sequence[str]) -> None:
    """Raises ValueError for tensors that are no images in [0, 1], or not as many as instructions."""
    for name, images in (("source", source), ("edited", edited)):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or 0 in images.shape[2:]:
            raise ValueError(
                f"{name} must be floating-point images [B, 3, H, W] in [0, 1], got {images.dtype} of shape "
                f"{list(images.shape)}"
            )
        if len(images) != len(instructions):
            raise ValueError(f"{name} holds {len(images)} images for {len(instructions)} instructions; give one each")
        pixels = images.detach()
        pixels = pixels[pixels.isfinite()]
        least, most = pixels.aminmax() if pixels.numel() else (0.0, 1.0)
        if least < -_SLACK or most > 1 + _SLACK:
            raise ValueError(
                f"{name} must lie in [0, 1], it goes from {float(least):.3g} to {float(most):.3g}; clamp it, or bring "
                "it there from [-1, 1] by (x + 1) / 2 and from [0, 255] by x / 255"
            )


def _can_be_scored(source: Tensor, edited: Tensor, instruction: str, domain: str) -> bool:
    if not instruction.strip() or not bool(source.detach().isfinite().all() and edited.detach().isfinite().all()):
        return False
    if domain == ANY:
        return True
    image = _picture(source)
    return check(domain, Edit(instruction, image, image)) is None


def _picture(pixels: Tensor) -> Image.Image:
    """What saving the image [3, H, W] would give."""
    levels = (pixels.detach().float().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
