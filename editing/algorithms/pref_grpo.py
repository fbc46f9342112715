"""Pref-GRPO: GRPO on win rates. Which of two edits is better is easier to say than how good one is.

The reward compares the members of each group with each other (see `editing.winrate`); a member's share of wins takes
the place of its score, and everything after it is GRPO. Win rates spread over a group even where scores crowd together,
so small differences are not blown up by a small deviation. Their mean in a group is 1/2 by construction: only the
monitor shows whether the edits get better.
Source: Pref-GRPO (Wang et al., 2025, https://arxiv.org/abs/2508.20751).
"""

__all__ = ["PrefGRPO"]

from typing import Literal

from pydantic import BaseModel, Field

from editing.algorithms.algorithm import Needs, Pairs, Step
from editing.algorithms.grpo import GRPO
from mmreward.training import Loss


class PrefGRPO(BaseModel, extra="forbid", frozen=True):
    """Settings and loss."""

    name: Literal["pref_grpo"] = "pref_grpo"
    clip: float = Field(default=1e-3, gt=0, lt=1)
    kl: float = Field(default=0.0, ge=0)
    by: Literal["judge", "scores"] = "judge"
    """A judge that compares two edits, or the scores of any reward: then only their order counts."""
    rivals: int | None = Field(default=None, ge=1)
    """Members that each one is compared with; None: all others of its group."""
    margin: float = Field(default=0.0, ge=0)
    """By scores: a difference up to it is a tie (not below the reward's repeat noise)."""

    @property
    def needs(self) -> Needs:
        return Needs(
            trajectory=True, reference=self.kl > 0, pairs=Pairs(by=self.by, rivals=self.rivals, margin=self.margin)
        )

    def loss(self, step: Step) -> Loss:
        return GRPO(clip=self.clip, kl=self.kl).loss(step)
