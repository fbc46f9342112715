"""The processes that train one module together, each on its share of every batch: what the loop asks of them."""

from __future__ import annotations

__all__ = ["Alone", "Together", "average_gradients", "clip_gradients"]

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from mmreward.training.sharded import in_parts, whole


class Together(Protocol):
    """`editing.processes.Processes` is one."""

    size: int

    @property
    def main(self) -> bool:
        """Whether this is the one process that writes files and speaks."""
        ...

    def gather(self, value: Any) -> list[Any]:
        """What each process gave (JSON), in their order; waits for the slowest."""
        ...

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Each gradient becomes its sum over the processes; one that only some have counts as 0 elsewhere."""
        ...


class Alone:
    """One process."""

    size = 1
    main = True

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        pass


def average_gradients(parameters: Sequence[nn.Parameter], processes: Together) -> None:
    """The mean over the processes. That of a parameter that lies in parts is taken in the backward pass."""
    each_has = [parameter for parameter in parameters if not in_parts(parameter)]
    if processes.size == 1 or not each_has:
        return
    processes.sum_gradients(each_has)
    for parameter in each_has:
        if parameter.grad is not None:
            parameter.grad.div_(processes.size)


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scales all gradients down to `max_norm` together; returns their norm before. Some parameters may lie in parts."""
    kinds = [[p for p in parameters if in_parts(p) == parts] for parts in (False, True)]
    kinds = [kind for kind in kinds if kind]
    if len(kinds) == 1:
        return float(whole(torch.nn.utils.clip_grad_norm_(kinds[0], max_norm)))
    gradients = [[p.grad for p in kind if p.grad is not None] for kind in kinds]
    norm = math.hypot(*(float(whole(torch.nn.utils.get_total_norm(some))) for some in gradients))
    scale = min(max_norm / (norm + 1e-6), 1.0)
    for some in gradients:
        for gradient in some:
            gradient.mul_(scale)
    return norm
