"""Layers of the tiny judge as plain matrix products, which train faster on a CPU than the model's own.

They compute what the layers of transformers compute, from the same weights (a test compares the whole forward pass).
A `Branch` is what stands behind a shared text: candidates, or pairs of them, with their questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Branch", "attend", "block_of", "keys_of", "norm", "positions", "rotate"]


@dataclass
class Branch:
    """What stands behind the shared text N times in each group: embeddings [G, N, S, D], rotations and mask of its
    tokens, and where among them the answers are read.
    """

    x: Tensor
    turn: tuple[Tensor, Tensor]
    mask: Tensor
    answer_at: Tensor

    def layer(self, layer: Any, keys: Tensor, values: Tensor, last: bool) -> None:
        """Go through a decoder layer, attending to the shared text too; the last one only where answers are read."""
        own_keys, own_values = keys_of(layer, self.x, self.turn)
        wide = (
            torch.cat([keys[:, None].expand(-1, self.x.shape[1], -1, -1, -1), own_keys], -2),
            torch.cat([values[:, None].expand(-1, self.x.shape[1], -1, -1, -1), own_values], -2),
        )
        x, turn, mask = self.x, self.turn, self.mask
        if last:
            at = self.answer_at
            x, turn, mask = x[:, :, at], (turn[0][at], turn[1][at]), mask[..., at, :]
        self.x = block_of(layer, x, turn, mask, wide)


def positions(length: int, image_at: int) -> Tensor:
    """M-RoPE positions [3, length] of a text with one 3x3 image at `image_at`."""
    before = torch.arange(image_at).expand(3, -1)
    place = torch.arange(9)
    image = torch.stack([torch.zeros(9, dtype=torch.long), place // 3, place % 3]) + image_at
    after = torch.arange(length - image_at - 9).expand(3, -1) + image_at + 3
    return torch.cat([before, image, after], 1)


def norm(x: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + epsilon)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * turn[0] + torch.cat([-second, first], -1) * turn[1]).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    repeat = query.shape[-3] // key.shape[-3]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        weights = weights.masked_fill(~mask, -1e4)
    return weights.float().softmax(-1).to(value.dtype) @ value


def keys_of(layer: Any, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    attention = layer.self_attn
    y = norm(x, layer.input_layernorm.variance_epsilon) * layer.input_layernorm.weight
    key, value = (
        part(y).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3)
        for part in (attention.k_proj, attention.v_proj)
    )
    return rotate(key, turn), value


def block_of(
    layer: Any, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor, seen: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """One decoder layer; `seen` are the keys and values to attend to, those of x where None."""
    attention = layer.self_attn
    key, value = seen or keys_of(layer, x, turn)
    y = norm(x, layer.input_layernorm.variance_epsilon) * layer.input_layernorm.weight
    query = rotate(attention.q_proj(y).unflatten(-1, (-1, attention.head_dim)).transpose(-2, -3), turn)
    x = x + attention.o_proj(attend(query, key, value, mask).transpose(-2, -3).flatten(-2))
    y = norm(x, layer.post_attention_layernorm.variance_epsilon) * layer.post_attention_layernorm.weight
    return x + layer.mlp(y)
