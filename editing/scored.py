"""Scores of what an editor made; where it made nothing, the score says why."""

__all__ = ["scored"]

from collections.abc import Sequence

from mmreward.edit import Edit
from mmreward.reward import Reward
from mmreward.score import Failure, Score


def scored(reward: Reward, made: Sequence[Edit | Failure]) -> list[Score]:
    """One score for each of `made`, in order; the reward sees the edits alone."""
    edits = [edit for edit in made if isinstance(edit, Edit)]
    scores = list(reward.score(edits)) if edits else []
    if len(scores) != len(edits):
        raise ValueError(f"the reward {reward.name!r} gave {len(scores)} scores for {len(edits)} edits")
    following = iter(scores)
    return [Score.failed(item.status, item.error) if isinstance(item, Failure) else next(following) for item in made]
