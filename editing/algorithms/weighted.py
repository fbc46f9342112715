"""RAFT and RWR: imitate the policy's own samples, the better the more.

    loss_i = weight_i * mean (v(x_t) - (noise - x0))² + kl * mean (v - v_ref)²

(noise in place of the velocity, where that is what the editor predicts)

- RAFT: weight 1 for the `best` samples of each group, 0 for the others. A sample must also be better than its group's
  mean: where all are alike there is no best one, and copying all of them would only blur the policy.
- RWR: weight exp(A / temperature), at most `limit`. Temperature to 0 is RAFT, to infinity plain imitation.

Nothing here pushes away from a bad sample, so both are slower than algorithms that do, and steadier.
Sources: RAFT (Dong et al., 2023, https://arxiv.org/abs/2304.06767); reward-weighted likelihood of images (Lee et al.,
2023, https://arxiv.org/abs/2302.12192); exponential weights of advantages with a limit (Peng et al., 2019,
https://arxiv.org/abs/1910.00177).
"""

__all__ = ["RAFT", "RWR"]

from abc import ABC, abstractmethod
from typing import Literal

from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from editing.algorithms.algorithm import Denoise, Needs, no_error_setting
from mmreward.training import Loss


class _Weighted(BaseModel, ABC, extra="forbid", frozen=True):
    kl: float = Field(default=0.0, ge=0)
    """Weight of the squared distance to what the starting weights predict: no divergence, in spite of its name, and not
    to be compared with GRPO's `kl`."""
    levels: int = Field(default=4, ge=1)
    """Noise levels at which each sample is seen in an iteration."""
    window: int | None = Field(default=None, ge=1)
    """Only levels of the first so many steps of sampling, which decide what is done; None: of all steps."""

    _no_error_setting = model_validator(mode="before")(no_error_setting)

    @property
    def needs(self) -> Needs:
        return Needs(levels=self.levels, window=self.window, reference=self.kl > 0)

    @abstractmethod
    def weight(self, given: Denoise) -> Tensor:
        """[B], not negative."""

    def loss(self, given: Denoise) -> Loss:
        weight = self.weight(given)
        error = given.distance(given.x0)
        per_sample = weight * error
        parts = {
            "imitated": float((given.weights * weight).sum()),
            "error": float((given.weights * error.detach()).sum()),
        }
        if self.kl and given.reference is not None:
            distance = given.distance(given.reference)
            per_sample = per_sample + self.kl * distance
            parts["reference_distance"] = float((given.weights * distance.detach()).sum())
        return Loss((given.weights * per_sample).sum(), parts)


class RAFT(_Weighted, frozen=True):
    """Settings and weight."""

    name: Literal["raft"] = "raft"
    best: int = Field(default=1, ge=1)
    """Samples of each group that are imitated (and all that tie with them)."""

    def weight(self, given: Denoise) -> Tensor:
        return ((given.ranks < self.best) & (given.advantages > 0)).to(given.advantages.dtype)


class RWR(_Weighted, frozen=True):
    """Settings and weight."""

    name: Literal["rwr"] = "rwr"
    temperature: float = Field(default=1.0, gt=0)
    limit: float = Field(default=20.0, gt=0)

    def weight(self, given: Denoise) -> Tensor:
        return (given.advantages / self.temperature).exp().clamp_max(self.limit)
