"""What the trainer and an algorithm know of each other."""

__all__ = ["Algorithm", "Denoise", "Error", "Needs", "Pairs", "Step", "no_error_setting"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from mmreward.training import Loss

Error = Literal["velocity", "noise"]


@dataclass(frozen=True)
class Pairs:
    """How the members of a group are compared."""

    by: Literal["judge", "scores"] = "judge"
    """By a reward that compares edits, or by the scores of any reward."""
    rivals: int | None = None
    """Members that each one is compared with; None: all others."""
    margin: float = 0.0
    """By scores: a difference up to it is a tie."""


@dataclass(frozen=True)
class Needs:
    """What an algorithm must be given. The trainer collects exactly this, and hands its loss `Step`s or `Denoise`s."""

    trajectory: bool = False
    """Latents and log-densities of the noisy steps of each sample: the loss is taken on `Step`s."""
    levels: int = 0
    """Clean samples, noised anew to so many levels each: the loss is taken on `Denoise`s."""
    window: int | None = None
    """With `levels`: those of the first so many steps of sampling only; None: of all."""
    reference: bool = False
    """What the starting weights say to each example."""
    old: Callable[[int], float] | None = None
    """An old policy, which samples. After each iteration it follows with this decay, given the updates so far."""
    pairs: Pairs | None = None
    """Win rates inside each group in place of scores."""


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
    old_mean: Tensor | None = None
    """As `mean`, of the policy that sampled."""
    gain: float = 1.0
    """How far `mean` moves against a change of the velocity, -d mean / d v: t - t_next for the ODE, and see
    `editing.transition.velocity_gain` for the others."""


@dataclass(frozen=True)
class Denoise:
    """B clean samples, noised anew and predicted again, with gradient through `predicted`."""

    x0: Tensor
    """[B, ...], the clean samples, float32."""
    predicted: Tensor
    """As `x0`, what the present policy sees in the noised samples."""
    old: Tensor | None
    """As `x0`, what the old policy sees, or None where the algorithm does not need it."""
    reference: Tensor | None
    """As `x0`, what the starting weights see, or None where the algorithm does not need it."""
    t: Tensor
    """[B, 1, ...], the noise levels."""
    advantages: Tensor
    """[B]"""
    weights: Tensor
    """[B], 0 for a sample without a score."""
    ranks: Tensor
    """[B], how many members of its group are strictly better."""
    error: Error = "velocity"
    """What the editor's network predicts, and errors are measured in."""

    def distance(self, other: Tensor) -> Tensor:
        """[B], mean square difference of `predicted` and `other`, as velocities (dx0 / t) or noise (dx0 (1 - t) / t).

        The noise is for networks that predict it: at the noisiest levels their velocity is badly known.
        """
        scale = 1 / self.t if self.error == "velocity" else (1 - self.t) / self.t
        return (scale * (self.predicted - other)).square().flatten(1).mean(1)


def no_error_setting(values: Any) -> Any:
    """For a validator: `error` was a setting once."""
    if isinstance(values, Mapping) and "error" in values:
        raise ValueError("error: whether a network predicts velocity or noise is the editor's to say; leave it out")
    return values


class Algorithm(Protocol):
    """A loss that is a weighted mean over samples, and a declaration."""

    @property
    def needs(self) -> Needs: ...

    def loss(self, given: Any, /) -> Loss:
        """Sum over samples of weight x loss (the trainer divides by the sum of weights of the whole update)."""
        ...
