"""A judge as a differentiable function of pixels: expected scores of images that are tensors.

The question, the tokens, the labels and the model are those of `score`; only the way of an image into the model is
another (`mmreward.judge.backends.patches`). There is no rounding to bytes in it, neither of the image itself nor after
the resize, hence a small gap. The bundled judge on 48 edits of the shapes world, `overall`: 0.0004 on average and 0.005
at most for tensors of 256 levels, 0.0007 and 0.005 for tensors between the levels; no pair of one group that is 0.02
apart changes its order (`python tests/speed/tensor_gap.py`). Images that need no resize differ by rounding alone.

The contract is that of all differentiable rewards (`mmreward.reward.Differentiable`, `mmreward.tensors`). A row that is
NaN by it, or because its instruction is too long or its labels hold less than the floor, has no gradient: leave it out
with `torch.isfinite`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmreward.domain import ANY
from mmreward.judge.backends.backend import Backend
from mmreward.judge.backends.families import GridFamily, Prepared
from mmreward.judge.backends.patches import patches, resized
from mmreward.judge.backends.vision import Picture
from mmreward.judge.way import Way
from mmreward.judge.ways.expected import BONUS, ExpectedScore
from mmreward.tensors import score_tensors

__all__ = ["PixelJudge", "obstacle"]


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
    """`judge(source, edited, instructions)` with images [B, 3, H, W] in [0, 1] gives `overall` [B] in [0, 1], or NaN;
    sources outside of `domain` are rows without a score.

    Raises ValueError for a judge without gradients, with the reason.
    """

    def __init__(self, backend: Any, way: Any, domain: str = ANY) -> None:
        if reason := obstacle(backend, way):
            raise ValueError(f"this judge takes no tensors: {reason}; use score()")
        self.way: ExpectedScore = way
        self.domain = domain
        self.shared, self.processor = backend.shared, backend.processor.image_processor
        self.labels = backend.label_ids(way.questions.labels)

    def __call__(self, source: Tensor, edited: Tensor, instructions: Sequence[str]) -> Tensor:
        return score_tensors(self._scores, source, edited, instructions, self.domain)

    def _scores(self, source: Tensor, edited: Tensor, instructions: list[str]) -> Tensor:
        pictures: dict[int, Picture] = {}
        prompts = []
        for before, after, text in zip(self._look(source), self._look(edited), instructions, strict=True):
            first, second = Image.new("RGB", (1, 1)), Image.new("RGB", (1, 1))  # they stand for the pictures
            pictures |= {id(first): before, id(second): after}
            prompts.append(self.way.questions.prompt(text, first, [second]))
        rows = [self._overall(row) for row in self.shared.chances(prompts, pictures, self.labels)]
        return torch.stack(rows)

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

    def _overall(self, chances: Tensor | None) -> Tensor:
        """`overall` from label probabilities [dimensions, labels] of one edit, NaN where they hold too little (None:
        the prompt does not fit).
        """
        if chances is None or not bool((chances.sum(-1) >= self.way.floor).all()):  # also for NaN
            return torch.tensor(torch.nan, device=self.shared.language.device)
        levels = torch.arange(chances.shape[-1], device=chances.device, dtype=chances.dtype)
        means = (chances * levels).sum(-1) / chances.sum(-1) / levels[-1]
        found = dict(zip(self.way.dims, means.unbind(), strict=True))
        overall = found["instruction_following"]
        for name, share in BONUS.items():
            if name in found:
                overall = overall * (1 - share + share * found[name])
        return overall
