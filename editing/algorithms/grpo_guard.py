"""GRPO-Guard: GRPO with a ratio of the same scale and no bias at every step.

The log-ratio of a Gaussian step is z·d/std - d²/(2 std²), with d the difference of the means: its expectation lies
below zero, so that good samples seldom reach the clip range, and its scale depends on the step. Adding what is lost
and multiplying by std leaves z·d:

    log ratio' = (logp - logp_old + mean (mean - mean_old)² / (2 std²)) * std
    loss_i     = [ max(-A_i ratio', -A_i clip(ratio', 1 - c, 1 + c)) ] / gain + kl * (as GRPO)

where gain = -d mean / d v says how far a step's mean moves with the network's velocity: the division balances the
gradients of the steps. The paper divides by t - t_next, which is the gain of the ODE. In eight steps that of the SDEs
is 1 to 1.25 times as large, and that of CPS (eta 0.8) 1 to 2.04 times: the paper's divisor would favour the middle of
sampling there (see `editing.transition.velocity_gain`).
Source: GRPO-Guard (Wang et al., 2025, https://arxiv.org/abs/2510.22319).
"""

__all__ = ["GRPOGuard"]

from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, Field

from editing.algorithms.algorithm import Needs, Step
from editing.algorithms.grpo import GRPO
from mmreward.training import Loss


class GRPOGuard(BaseModel, extra="forbid", frozen=True):
    """Settings and loss; `clip` is of the normalised ratio, which is smaller than GRPO's by the factor std."""

    name: Literal["grpo_guard"] = "grpo_guard"
    clip: float = Field(default=1e-4, gt=0, lt=1)
    kl: float = Field(default=0.0, ge=0)

    @property
    def needs(self) -> Needs:
        return Needs(trajectory=True, reference=self.kl > 0)

    def loss(self, step: Step) -> Loss:
        if step.old_mean is None:
            raise ValueError("GRPO-Guard: the means of the policy that sampled are missing")
        lost = ((step.mean - step.old_mean).square() / (2 * step.std.square())).flatten(1).mean(1)
        log_ratio = (step.logp - step.old_logp + lost) * step.std.flatten()
        normalised = replace(
            step, logp=log_ratio, old_logp=torch.zeros_like(log_ratio), advantages=step.advantages / step.gain
        )
        return GRPO(clip=self.clip, kl=self.kl).loss(normalised)
