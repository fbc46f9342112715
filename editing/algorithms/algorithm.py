"""What the trainer and an algorithm know of each other."""

__all__ = ["Algorithm", "Needs", "Step"]

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mmreward.training import Loss


@dataclass(frozen=True)
class Needs:
    """What an algorithm must be given. The trainer collects exactly this."""

    trajectory: bool = False
    """Latents and log-densities of the noisy steps of each sample."""
    reference: bool = False
    """The mean of each replayed step under the starting weights."""


@dataclass(frozen=True)
class Step:
    """One step of B samples, replayed under the present weights, with gradient through `logp` and `mean`."""

    logp: Tensor
    """[B], mean over dimensions."""
    old_logp: Tensor
    """[B], of the policy that sampled."""
    mean: Tensor
    """[B, ...], float32."""
    std: Tensor
    """[B, 1, ...]"""
    reference_mean: Tensor | None
    """As `mean`, or None where the algorithm does not need it."""
    advantages: Tensor
    """[B]"""
    weights: Tensor
    """[B], 0 for a sample without a score."""


class Algorithm(Protocol):
    """A loss that is a weighted mean over samples, and a declaration."""

    @property
    def needs(self) -> Needs: ...

    def loss(self, step: Step) -> Loss:
        """Sum over samples of weight x loss (the trainer divides by the sum of weights of the whole update)."""
        ...
