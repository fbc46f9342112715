"""A cache of keys and values with room to grow, for texts that grow by a token at a time.

The cache of transformers appends by concatenation, which copies all that is there for each new token; with many texts
of several hundred tokens side by side that is most of the work. Here keys and values are views of larger buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["roomy"]

_LEAST = 64
"""Tokens for which there is room at least whenever a buffer is made."""


class _Roomy(DynamicLayer):
    """`keys` and `values` [B, heads, L, D], as in its base class."""

    keys: Tensor
    values: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers: tuple[Tensor, Tensor] | None = None
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            capacity = end + max(_LEAST, end // 4)
            old, self._buffers = (self.keys, self.values), (_new(key_states, capacity), _new(value_states, capacity))
            for buffer, kept in zip(self._buffers, old if start else (), strict=False):
                buffer[..., :start, :] = kept
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._buffers)
        return self.keys, self.values


def roomy(cache: Any, rows: Sequence[int] | Tensor) -> Any:
    """A copy with these rows of a cache, in this order, and with room; a row may come several times."""
    copy = Cache(layer_class_to_replicate=_Roomy)
    for number, layer in enumerate(cache.layers):
        copy.update(layer.keys[rows], layer.values[rows], number)
    return copy


def _new(states: Tensor, capacity: int) -> Tensor:
    """An empty buffer [B, heads, capacity, D] for states [B, heads, N, D]."""
    return states.new_empty(*states.shape[:-2], capacity, states.shape[-1])
