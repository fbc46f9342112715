"""A judge as a differentiable function of pixels: expected scores of images that are tensors.

The question, the tokens, the labels and the model are those of `score`; only the way of an image into the model is
another (`mmreward.judge.backends.patches`). There is no rounding to bytes in it, neither of the image itself nor after
the resize, hence a small gap. The bundled judge on 48 edits of the shapes world, `overall`: 0.0004 on average and 0.005
at most for tensors of 256 levels, 0.0007 and 0.005 for tensors between the levels; no pair of one group that is 0.02
apart changes its order (`python tests/speed/tensor_gap.py`). Images that need no resize differ by rounding alone.

A tensor cannot hold a status. A row that `score` would answer with one, because its instruction is empty or too long or
its labels hold less than the floor, is NaN here and has no gradient: leave it out with `torch.isfinite`. The domain of
the model is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmreward.judge.backends.backend import Backend
from mmreward.judge.backends.families import GridFamily, Prepared
from mmreward.judge.backends.patches import patches, resized
from mmreward.judge.backends.vision import Picture
from mmreward.judge.way import Way
from mmreward.judge.ways.expected import BONUS, ExpectedScore

__all__ = ["PixelJudge", "obstacle"]

_SLACK = 1e-3
"""How far rounding may take an image out of [0, 1]."""


def obstacle(backend: Backend, way: Way) -> str | None:
    """Why a judge gives no gradients, None where it does."""
    if not isinstance(way, ExpectedScore):
        return "only the way 'expected' has gradients, the others write text or compare"
    shared = getattr(backend, "shared", None)
    if shared is None:
        return "gradients need a model of the Qwen-VL families in this process, asked in the layout packed or cached"
    if not isinstance(shared.family, GridFamily):
        kind = shared.language.model.config.model_type
        return f"images of a {kind!r} model go through its own processor, which has no gradients; use a Qwen-VL model"
    return None


class PixelJudge:
    """`judge(source, edited, instructions)` with images [B, 3, H, W] in [0, 1] gives `overall` [B] in [0, 1], or NaN.

    Raises ValueError for a judge without gradients, with the reason.
    """

    def __init__(self, backend: Any, way: Any) -> None:
        if reason := obstacle(backend, way):
            raise ValueError(f"this judge takes no tensors: {reason}; use score()")
        self.way: ExpectedScore = way
        self.shared, self.processor = backend.shared, backend.processor.image_processor
        self.labels = backend.label_ids(way.questions.labels)

    def __call__(self, source: Tensor, edited: Tensor, instructions: Sequence[str]) -> Tensor:
        _check(source, edited, instructions)
        if not instructions:
            return source.new_zeros(0)
        pictures: dict[int, Picture] = {}
        prompts = []
        for before, after, text in zip(self._look(source), self._look(edited), instructions, strict=True):
            first, second = Image.new("RGB", (1, 1)), Image.new("RGB", (1, 1))  # they stand for the pictures
            pictures |= {id(first): before, id(second): after}
            prompts.append(self.way.questions.prompt(text, first, [second]))
        told = self.shared.chances(prompts, pictures, self.labels)
        rows = [self._overall(one if text.strip() else None) for one, text in zip(told, instructions, strict=True)]
        nothing = source.new_tensor(torch.nan)
        return torch.stack([nothing if row is None else row.to(nothing) for row in rows])

    def _look(self, images: Tensor) -> list[Picture]:
        cut, rows, columns = patches(resized(images, self.processor), self.processor)
        merge = self.processor.merge_size
        grid = torch.tensor([[1, rows, columns]])
        ids = (self.shared.vision.token,) * (rows * columns // merge**2)
        prepared = [
            Prepared(ids, {"pixel_values": one, "image_grid_thw": grid}, rows // merge, columns // merge) for one in cut
        ]
        looked: list[Picture] = self.shared.vision.features(prepared)
        return looked

    def _overall(self, chances: Tensor | None) -> Tensor | None:
        """`overall` from label probabilities [dimensions, labels] of one edit."""
        if chances is None or not bool((chances.sum(-1) >= self.way.floor).all()):  # also for NaN
            return None
        levels = torch.arange(chances.shape[-1], device=chances.device, dtype=chances.dtype)
        means = (chances * levels).sum(-1) / chances.sum(-1) / levels[-1]
        found = dict(zip(self.way.dims, means.unbind(), strict=True))
        overall = found["instruction_following"]
        for name, share in BONUS.items():
            if name in found:
                overall = overall * (1 - share + share * found[name])
        return overall


def _check(source: Tensor, edited: Tensor, instructions: Iterable[str]) -> None:
    """Raises ValueError for tensors that are no images, or not as many as instructions."""
    count = len(list(instructions))
    for name, images in (("source", source), ("edited", edited)):
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point images [B, 3, H, W] in [0, 1], got {images.dtype} of shape "
                f"{list(images.shape)}"
            )
        if len(images) != count:
            raise ValueError(f"{name} holds {len(images)} images for {count} instructions; give one each")
        least, most = images.detach().aminmax() if images.numel() else (0.0, 1.0)
        if least < -_SLACK or most > 1 + _SLACK:
            raise ValueError(
                f"{name} must lie in [0, 1], it goes from {float(least):.3g} to {float(most):.3g}; clamp it, or bring "
                "it there from [-1, 1] by (x + 1) / 2"
            )
