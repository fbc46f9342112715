"""What families of models differ in, as far as sharing needs it: an image's tokens, its features, and positions.

    model_type                            images                              positions
    qwen2_vl, qwen2_5_vl, qwen3_vl        one grid, any size                  M-RoPE, three numbers a token
    internvl, smolvlm, idefics3           one or several tiles of one size    one number a token

M-RoPE after P. Wang et al., "Qwen2-VL", 2024, https://arxiv.org/abs/2409.12191: text counts on all three axes, an
image that starts at p has (p, p + row, p + column), and what follows goes on at p + max(rows, columns). Qwen3-VL adds
features of earlier vision blocks to the image tokens after its first layers (L. Meng et al., "DeepStack", 2024,
https://arxiv.org/abs/2406.04334).

A model that is not in this table is asked with plain rows, by its own processor and forward alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmreward.judge.backends.pixels import misfit
from mmreward.score import Failure

__all__ = ["Family", "Prepared", "find_family", "stack_tensors", "text_positions"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image as a model's vision tower wants it: its tokens in the text, tensors by name, and its grid of visual
    tokens where positions need it. `tiles`: how many it was cut into, and their width and height; empty for a grid.
    Where there is a `failure`, nothing else is meant.
    """

    ids: tuple[int, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: int = 0
    columns: int = 0
    failure: Failure | None = None
    tiles: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[Any, ...]:
        """Images of one shape go through the vision tower together."""
        grids = tuple(tuple(v.flatten().tolist()) for n, v in self.tensors.items() if n == "image_grid_thw")
        return len(self.ids), grids, *((name, tuple(value.shape)) for name, value in sorted(self.tensors.items()))


class Family(Protocol):
    """`axes`: numbers that a token's position has."""

    axes: int

    def prepare(self, images: Sequence[Image.Image]) -> list[Prepared]:
        """Never raises for an image: one that this model cannot take is `not_applicable`, one at which its processor
        raises is an `error`.
        """

    def picture_positions(self, start: int, picture: Prepared) -> tuple[np.ndarray, int]:
        """Positions [axes, tokens] of an image that starts at `start`, and where what follows it starts."""


def find_family(model: Any, processor: Any) -> Family | None:
    """How a model's images and positions work, or None where this table does not know."""
    kind = model.config.model_type
    if kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
        return GridFamily(model, processor)
    if kind in ("internvl", "smolvlm", "idefics3"):
        return TileFamily(model, processor)
    return None


def text_positions(start: int, count: int, axes: int) -> np.ndarray:
    """Positions [axes, count] of text."""
    return np.arange(start, start + count)[None].repeat(axes, 0)


class GridFamily:
    """Qwen: an image is a grid of patches, `merge` x `merge` of them one visual token."""

    axes = 3

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor, self.image_processor = processor, processor.image_processor
        self.token = model.config.image_token_id
        self.merge = int(processor.image_processor.merge_size)

    def prepare(self, images: Sequence[Image.Image]) -> list[Prepared]:
        prepared = {
            i: Prepared(failure=failure)
            for i, image in enumerate(images)
            if (failure := misfit(self.processor, *image.size))
        }
        good = [i for i in range(len(images)) if i not in prepared]
        prepared |= zip(good, self._prepare([images[i] for i in good]), strict=True)
        return [prepared[i] for i in range(len(images))]

    def _prepare(self, images: Sequence[Image.Image]) -> list[Prepared]:
        if not images:
            return []
        try:
            found = self.image_processor(images=list(images), return_tensors="pt", disable_grouping=False)
        except Exception as error:  # whatever an odd image, or another version of the library, makes it raise
            if len(images) == 1:
                return [_broken(images[0], error)]
            return [one for image in images for one in self._prepare([image])]
        grids = found["image_grid_thw"]
        prepared = []
        for pixels, grid in zip(found["pixel_values"].split(grids.prod(-1).tolist()), grids, strict=True):
            rows, columns = int(grid[1]) // self.merge, int(grid[2]) // self.merge
            tensors = {"pixel_values": pixels, "image_grid_thw": grid[None]}
            prepared.append(Prepared((self.token,) * (rows * columns), tensors, rows, columns))
        return prepared

    def picture_positions(self, start: int, picture: Prepared) -> tuple[np.ndarray, int]:
        return _grid(picture.rows, picture.columns) + start, start + max(picture.rows, picture.columns)


class TileFamily:
    """InternVL, Idefics3, SmolVLM: tiles of one size, with tokens between them that the processor writes."""

    axes = 1

    def __init__(self, model: Any, processor: Any) -> None:
        self.processor = processor

    def prepare(self, images: Sequence[Image.Image]) -> list[Prepared]:
        return [self._prepare(image) for image in images]

    def _prepare(self, image: Image.Image) -> Prepared:
        try:
            found = self.processor(
                text=[self.processor.image_token], images=[image], return_tensors="pt", add_special_tokens=False
            )
        except Exception as error:  # whatever an odd image, or another version of the library, makes it raise
            return _broken(image, error)
        tensors = {name: found[name] for name in ("pixel_values", "pixel_attention_mask") if name in found}
        *_, count, _, height, width = tensors["pixel_values"].shape
        return Prepared(tuple(found["input_ids"][0].tolist()), tensors, tiles=(count, width, height))

    def picture_positions(self, start: int, picture: Prepared) -> tuple[np.ndarray, int]:
        count = len(picture.ids)
        return text_positions(start, count, 1), start + count


def _broken(image: Image.Image, error: Exception) -> Prepared:
    reason = f"{type(error).__name__}: {error}"
    return Prepared(
        failure=Failure("error", f"the processor failed at an image of {image.width}x{image.height}: {reason}")
    )


@lru_cache(maxsize=256)
def _grid(rows: int, columns: int) -> np.ndarray:
    """[3, rows * columns]: 0, row, column of each visual token."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([np.zeros_like(y), y, x])


def stack_tensors(group: Sequence[Prepared]) -> dict[str, Tensor]:
    """Inputs of the vision tower for images of one shape."""
    return {name: torch.cat([one.tensors[name] for one in group]) for name in group[0].tensors}
