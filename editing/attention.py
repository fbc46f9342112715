"""Attention in training, as plain products where these are faster.

with training_attention(device):
    loss = (module(batch) - wanted).square().mean()
"""

__all__ = ["training_attention"]

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def training_attention(device: torch.device) -> AbstractContextManager[None]:
    """What a forward pass that will be followed by a backward pass runs under. On a CPU the backward pass of fused
    attention takes two to three times as long as that of plain products; elsewhere nothing changes.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
