"""Smeared candidates: what a weak editor does to an image, in many variations and without an editor.

Rendered flaws are clean: a shape is there or not. An editor's are not: half a shape, two edits faded into each other,
wobbly outlines, blurred places, blotches. Each is drawn at random here, with a strength that varies smoothly over the
image; what the result shows is for the oracle to say.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["smear"]


def smear(images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images uint8 [N, 64, 64, 3], each in places faded into its image of `others`, warped, blurred, blotched."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    count = len(images)

    def draw(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    def field(cells: int, channels: int = 1) -> Tensor:
        """Smooth noise of about unit size, [N, channels, 64, 64]."""
        coarse = torch.randn(count, channels, cells, cells, generator=generator)
        return F.interpolate(coarse, size=64, mode="bicubic", align_corners=True)

    def places(share: float) -> Tensor:
        """A smooth mask in [0, 1] of varied extent and strength, for `share` of the images, else 0."""
        used = (draw(1, 1, 1) < share).float()
        return torch.sigmoid(5 * (field(4) + 2 * draw(1, 1, 1) - 1.4)) * (0.2 + 0.8 * draw(1, 1, 1)) * used

    pixels, mates = (torch.from_numpy(x).permute(0, 3, 1, 2).float() for x in (images, others))
    pixels = pixels + places(0.5) * (mates - pixels)
    pixels = _warped(pixels, field(6, 2) * 2.5 * draw(1, 1, 1) * (draw(1, 1, 1) < 0.6))
    pixels = pixels + places(0.6) * (_blurred(pixels) - pixels)
    pixels = pixels + places(0.4) * 45 * field(7, 3)
    return pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()


def _warped(pixels: Tensor, shift: Tensor) -> Tensor:
    """Images moved by `shift` [N, 2, 64, 64] pixels (right, down)."""
    axis = (torch.arange(64) + 0.5) / 32 - 1
    still = torch.stack(torch.meshgrid(axis, axis, indexing="ij")[::-1], -1)
    grid = still + shift.permute(0, 2, 3, 1) / 32
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _blurred(pixels: Tensor) -> Tensor:
    """Two box means of 5 pixels."""
    for _ in range(2):
        pixels = F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return pixels
