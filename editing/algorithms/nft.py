"""DiffusionNFT: learn from good and bad samples on the forward process, with any sampler and no likelihood.

Every clean sample x0 is noised anew. The present policy and the old one (which sampled) predict it again, and imply two
more: a positive policy, a step from the old one towards the present, and a negative one, the same step away from it:

    x0+ = old + beta (present - old)          x0- = old - beta (present - old)
    r = clip(A, -limit, limit) / (2 limit) + 1/2
    loss = limit / beta * [ r e(x0+) + (1 - r) e(x0-) ] + kl * mean (v - v_ref)²
    e(y) = |y - x0|² / stop(mean |y - x0|)

with means over dimensions. x0 = x_t - t v is affine in the velocity, so this is the paper's mixture of velocities; the
divisor, without gradient, gives all noise levels about the same weight. While the old policy is the present one, the
gradient is that of A e(present) in each sample: good ones pull, bad ones push, r = 1/2 does neither. A sample without
a score has weight 0; r = 1/2 would still hold it in place once the old policy lags behind.

The old policy follows after each iteration, old = d old + (1 - d) present, with d = min(slope * (updates - start),
limit). The paper's three schedules: slope 0 (d = 0, on-policy); 0.001, 0, 0.5; 0.0075, 75, 0.999.
Source: DiffusionNFT (Zheng et al., 2025, https://arxiv.org/abs/2509.16117).
"""

__all__ = ["NFT", "OldDecay"]

from typing import Literal

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from editing.algorithms.algorithm import Denoise, Needs, no_error_setting
from mmreward.training import Loss

_LEAST_ERROR = 1e-5


class OldDecay(BaseModel, extra="forbid", frozen=True):
    """How slowly the old policy follows, after so many updates."""

    slope: float = Field(default=0.001, ge=0)
    start: int = Field(default=0, ge=0)
    limit: float = Field(default=0.5, ge=0, lt=1)

    def __call__(self, updates: int) -> float:
        return min(self.slope * max(updates - self.start, 0), self.limit)


class NFT(BaseModel, extra="forbid", frozen=True):
    """Settings and loss."""

    name: Literal["nft"] = "nft"
    beta: float = Field(default=1.0, gt=0)
    limit: float = Field(default=5.0, gt=0)
    """The advantage at which r is 0 or 1."""
    kl: float = Field(default=1e-4, ge=0)
    """Weight of the squared distance to what the starting weights predict (velocity, or noise where the editor predicts
    that). The paper's name; it is no divergence, and its values cannot be compared with GRPO's `kl`."""
    levels: int = Field(default=4, ge=1)
    """Noise levels at which each sample is seen in an iteration."""
    window: int | None = Field(default=None, ge=1)
    """Only levels of the first so many steps of sampling, which decide what is done; None: of all steps."""
    old: OldDecay = OldDecay()

    _no_error_setting = model_validator(mode="before")(no_error_setting)

    @property
    def needs(self) -> Needs:
        return Needs(levels=self.levels, window=self.window, reference=self.kl > 0, old=self.old)

    def loss(self, given: Denoise) -> Loss:
        if given.old is None:
            raise ValueError("NFT: the old policy's prediction is missing")
        weights, moved = given.weights, given.predicted - given.old
        r = (given.advantages / self.limit).clamp(-1, 1) / 2 + 0.5
        good = _error(given.old + self.beta * moved, given.x0)
        bad = _error(given.old - self.beta * moved, given.x0)
        per_sample = self.limit / self.beta * (r * good + (1 - r) * bad)
        parts = {"moved": float((weights * moved.detach().square().flatten(1).mean(1)).sum())}
        if self.kl and given.reference is not None:
            distance = given.distance(given.reference)
            per_sample = per_sample + self.kl * distance
            parts["reference_distance"] = float((weights * distance.detach()).sum())
        return Loss((weights * per_sample).sum(), parts)


def _error(guess: Tensor, truth: Tensor) -> Tensor:
    """[B]: mean square over mean magnitude, the latter without gradient (in float64: it is small at low noise)."""
    difference = guess - truth
    size = difference.detach().double().abs().flatten(1).mean(1).clamp_min(_LEAST_ERROR)
    return difference.square().flatten(1).mean(1) / size.to(difference.dtype)
