"""GRPO for flow and diffusion models.

    ratio_i = exp(logp_i - logp_old_i)                       (means over the D dimensions: the D-th root of the ratio)
    loss_i  = max(-A_i ratio_i, -A_i clip(ratio_i, 1 - c, 1 + c)) + kl * mean((mean - mean_ref)^2) / (2 std^2)

`logp` being a mean over dimensions, its changes are small and so is the clip range: its size goes like 1/sqrt(D). With
`loop.updates: 1` the weights that are updated are those that sampled: every ratio is 1, nothing is clipped, and this is
the plain policy gradient (REINFORCE) with the group's mean as baseline; the clip begins to act with the second update.

The KL term is the exact KL of two Gaussians with the same std, per dimension, with gradient. Flow-GRPO's divides by
2 g² where std² = g² (t - t_next), so ours is 1 / (t - t_next) times as large: a published beta becomes

    kl = beta * (t - t_next),      beta / steps for steps of one length: their 0.04 at 10 steps is kl: 0.004 here

Sources: Flow-GRPO (Liu et al., 2025, https://arxiv.org/abs/2505.05470), DanceGRPO (Xue et al., 2025,
https://arxiv.org/abs/2505.07818).
"""

__all__ = ["GRPO"]

from typing import Literal

import torch
from pydantic import BaseModel, Field

from editing.algorithms.algorithm import Needs, Step
from mmreward.training import Loss


class GRPO(BaseModel, extra="forbid", frozen=True):
    """Settings and loss."""

    name: Literal["grpo"] = "grpo"
    clip: float = Field(default=1e-3, gt=0, lt=1)
    kl: float = Field(default=0.0, ge=0)

    @property
    def needs(self) -> Needs:
        return Needs(trajectory=True, reference=self.kl > 0)

    def loss(self, step: Step) -> Loss:
        difference = step.logp - step.old_logp
        ratio = difference.exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        per_sample = torch.maximum(-step.advantages * ratio, -step.advantages * clipped)
        weights = step.weights
        parts = {
            "ratio_deviation": float((weights * (ratio.detach() - 1).abs()).sum()),
            "clip_fraction": float((weights * (per_sample.detach() > -step.advantages * ratio.detach())).sum()),
        }
        if self.kl and step.reference_mean is not None:
            distance = (step.mean - step.reference_mean).square() / (2 * step.std.square())
            divergence = distance.flatten(1).mean(1)
            per_sample = per_sample + self.kl * divergence
            parts["kl"] = float((weights * divergence.detach()).sum())
        return Loss((weights * per_sample).sum(), parts)
