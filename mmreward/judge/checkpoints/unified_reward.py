"""UnifiedReward-Edit, pointwise: grades from 0 to 25 in the structure of VIEScore, written greedily.

Y. Wang et al., "Unified Reward Model for Multimodal Understanding and Generation", 2025; models
CodeGoat24/UnifiedReward-Edit-*. Minimum within each pair and geometric mean overall, as `mmreward.judge.ways.rubric`.
"""

from __future__ import annotations

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.checkpoints.grades import GradePairs, rubric_way
from mmreward.judge.checkpoints.plain import PlainJudge
from mmreward.judge.checkpoints.texts import Texts
from mmreward.judge.way import Way

__all__ = ["JUDGE"]


def _way(texts: Texts, sampling: Sampling) -> Way:
    together, alone = texts.values
    if "{instruction}" not in together:
        raise ValueError("the prompt must hold {instruction}, where the instruction goes")
    return rubric_way(GradePairs(texts.about, together, alone, "{instruction}"), sampling)


JUDGE = PlainJudge(
    where="folder UnifiedReward-Edit of github.com/CodeGoat24/UnifiedReward",
    places=("edit_pointwise_instruction_following.py:problem", "edit_pointwise_quality.py:problem"),
    digest="b065e2a64356f8b3bd3f63ae13ff8511c776556872f823ad9d2e1fab51ccb726",
    sampling={"temperature": "0", "max_new_tokens": "4096"},
    make=_way,
)
