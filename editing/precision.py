"""How a network computes in a run: device, autocast and attention, decided once and handed to all who call it.

    precision = Precision(device, "bf16")
    with precision.forward():
        predicted = editor.predict(x, t, condition)
    with precision.backward():
        loss.backward()

Sampling and replaying must agree, or the first update is not on-policy; so nobody chooses for themselves.
"""

__all__ = ["AS_IT_IS", "Precision"]

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from editing.attention import training_attention
from mmreward.training.loop import autocast


@dataclass(frozen=True)
class Precision:
    """Without a device: as torch has it, nothing set."""

    device: torch.device | None
    autocast: Literal["bf16", "no"]

    @contextmanager
    def forward(self) -> Iterator[None]:
        """What every forward pass runs under, with gradient or without."""
        if self.device is None:
            yield
            return
        with autocast(self.device, self.autocast), self.backward():
            yield

    def backward(self) -> AbstractContextManager[None]:
        """What a backward pass runs under: gradient checkpointing computes the forward pass again in it."""
        return nullcontext() if self.device is None else training_attention(self.device)


AS_IT_IS = Precision(None, "no")
"""Nothing set."""
