"""An image's features, computed once per content, whatever the order of the prompts that show it.

What is kept from call to call must not change an answer by a byte, or training that is resumed would differ from
training that never stopped. Sums over a batch are rounded differently in another batch. So an image that is large
enough to fill the device is looked at alone, and its features are kept, the least recently used going first; smaller
ones are looked at together with all of their size in the call, and are kept for that call.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmreward.judge.backends.batches import attempt, out_of_memory
from mmreward.judge.backends.families import Family, Prepared, stack_tensors
from mmreward.score import Failure

__all__ = ["Picture", "Vision"]

KEPT_BYTES = 512 << 20
ALONE = 256
"""Visual tokens from which on an image is looked at alone: those of 448 x 448 pixels in most models."""

_TOGETHER = 8192
"""Visual tokens of smaller images that are looked at together."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as the language model sees it: tokens, positions, features [N, D] of its visual tokens, and features
    that are added after the first layers (empty except with DeepStack). Where there is a `failure`, nothing else is
    meant.
    """

    prepared: Prepared
    features: Tensor | None = None
    deep: tuple[Tensor, ...] = ()
    failure: Failure | None = None

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.features, *self.deep) if t is not None)


class Vision:
    """`looks` counts the images whose features were computed; `tiles` says of an image's size (width, height) into how
    many tiles of which width and height it was cut, for models that cut. Not thread-safe.
    """

    def __init__(self, model: Any, family: Family, *, kept_bytes: int = KEPT_BYTES, alone: int = ALONE) -> None:
        self.model, self.family, self.kept_bytes, self.alone = model, family, kept_bytes, alone
        self.token = model.config.image_token_id
        self.looks = 0
        self.tiles: dict[tuple[int, int], tuple[int, ...]] = {}
        self._kept: OrderedDict[bytes, Picture] = OrderedDict()
        self._bytes = 0

    def look(self, images: Sequence[Image.Image]) -> dict[int, Picture]:
        """Features of each image by its id(). Never raises for an image."""
        keys = {id(image): image for image in images}
        names = {one: _content(image) for one, image in keys.items()}
        wanted = {names[one]: image for one, image in keys.items() if names[one] not in self._kept}
        seen = {name: self._kept[name] for name in names.values() if name in self._kept}
        for name, picture in zip(wanted, self._see(list(wanted.values())), strict=True):
            seen[name] = picture
        self._keep(seen)
        return {one: seen[name] for one, name in names.items()}

    def features(self, prepared: Sequence[Prepared]) -> list[Picture]:
        """Features of images that fit, with gradients; nothing is kept."""
        found: dict[int, Picture] = {}
        for group in self._groups(prepared):
            found |= zip(group, self._features([prepared[i] for i in group]), strict=True)
        return [found[i] for i in range(len(prepared))]

    def _keep(self, seen: dict[bytes, Picture]) -> None:
        for name, picture in seen.items():
            if picture.features is not None and len(picture.features) >= self.alone:
                self._bytes += 0 if name in self._kept else picture.nbytes
                self._kept[name] = picture
                self._kept.move_to_end(name)
        while self._bytes > self.kept_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes

    def _see(self, images: Sequence[Image.Image]) -> list[Picture]:
        prepared = self.family.prepare(images) if images else []
        self.tiles |= {image.size: one.tiles for image, one in zip(images, prepared, strict=True) if one.tiles}
        found = {i: Picture(one, failure=one.failure) for i, one in enumerate(prepared) if one.failure}
        for group in self._groups(prepared):
            self.looks += len(group)
            pictures = attempt(self._features, [prepared[i] for i in group])
            for i, picture in zip(group, pictures, strict=True):
                found[i] = picture or Picture(prepared[i], failure=out_of_memory("an image"))
        return [found[i] for i in range(len(prepared))]

    def _groups(self, prepared: Sequence[Prepared]) -> Iterator[list[int]]:
        shapes: dict[tuple[Any, ...], list[int]] = {}
        for i, one in enumerate(prepared):
            if not one.failure:
                shapes.setdefault(one.shape, []).append(i)
        for members in shapes.values():
            tokens = prepared[members[0]].ids.count(self.token)
            size = 1 if tokens >= self.alone else max(1, _TOGETHER // max(tokens, 1))
            yield from (members[start : start + size] for start in range(0, len(members), size))

    def _features(self, group: Sequence[Prepared]) -> list[Picture]:
        inputs = {name: value.to(self.model.device) for name, value in stack_tensors(group).items()}
        told = self.model.get_image_features(**inputs)
        counts = [one.ids.count(self.token) for one in group]
        features = _split(told.pooler_output, counts)
        layers = [_split(layer, counts) for layer in getattr(told, "deepstack_features", None) or ()]
        deep = [tuple(layer[i] for layer in layers) for i in range(len(group))]
        bare = [replace(one, tensors={}) for one in group]  # pixels are not kept
        return [Picture(*parts) for parts in zip(bare, features, deep, strict=True)]


def _content(image: Image.Image) -> bytes:
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=20)
    digest.update(image.tobytes())
    return digest.digest()


def _split(features: Tensor | Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Features of several images, by image; copies, so that one can be freed without the others."""
    whole = features if isinstance(features, Tensor) else torch.cat(list(features))
    return [one.clone() for one in whole.reshape(-1, whole.shape[-1]).split(list(counts))]
