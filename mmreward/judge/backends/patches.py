"""Images of tensors as the patches that a Qwen vision tower reads, differentiable.

What the processor of Qwen2-VL, Qwen2.5-VL and Qwen3-VL does to an image: resized to sides that are multiples of a
visual token and an area within its budget, normalised, cut into patches; the patches of one visual token lie next to
each other, and each patch twice, because a still image is a film of two equal frames. The processor resizes bytes and
rounds to bytes, here numbers stay what they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["fitted_size", "patches", "resized"]


def fitted_size(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width of an image in the model. Raises ValueError where one side is over 200 times the other."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    size, side = processor.size, processor.patch_size * processor.merge_size
    fitted: tuple[int, int] = smart_resize(height, width, side, size["shortest_edge"], size["longest_edge"])
    return fitted


def resized(images: Tensor, processor: Any) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] at the model's size, filtered as the processor filters (clamped where a bicubic
    filter overshoots).
    """
    from torchvision.transforms.v2 import functional as T
    from transformers.image_utils import PILImageResampling

    size = fitted_size(processor, *images.shape[-2:])
    if tuple(images.shape[-2:]) == size:
        return images
    name = PILImageResampling(processor.resample).name.lower()
    return T.resize(images, list(size), interpolation=T.InterpolationMode(name), antialias=True).clamp(0, 1)


def patches(images: Tensor, processor: Any) -> tuple[Tensor, int, int]:
    """Patches [B, rows x columns, 3 x frames x side x side] of images [B, 3, H, W] at the model's size, and how many
    rows and columns of patches there are.
    """
    side, merge, frames = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    mean, std = (torch.tensor(one, dtype=images.dtype, device=images.device).view(3, 1, 1)
                 for one in (processor.image_mean, processor.image_std))  # fmt: skip
    images = (images * (255 * processor.rescale_factor) - mean) / std
    rows, columns = images.shape[-2] // side, images.shape[-1] // side
    # batch, channel, token row, row in token, y, token column, column in token, x
    cut = images.reshape(-1, 3, rows // merge, merge, side, columns // merge, merge, side)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, frames, -1, -1)
    return cut.reshape(len(images), rows * columns, -1), rows, columns
