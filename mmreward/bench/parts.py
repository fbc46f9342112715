"""What a reward is made of, and what can be asked of each part: the members of a combination, and judges' backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmreward.combine import Combination
from mmreward.reward import Reward

if TYPE_CHECKING:
    from mmreward.judge.backends.openai import OpenAIBackend

__all__ = ["Part", "is_judge", "parts", "served_backend"]


@dataclass(frozen=True)
class Part:
    """A reward that is no combination, and its name within the one that it is a member of ("" for the whole)."""

    name: str
    reward: Reward
    optional: bool = False


def parts(reward: Reward, name: str = "", optional: bool = False) -> Iterator[Part]:
    """The reward itself, or the members of a combination, and of those that are combinations again."""
    if not isinstance(reward, Combination):
        yield Part(name, reward, optional)
        return
    for member_name, member in reward.members.items():
        inner = f"{name}.{member_name}" if name else member_name
        yield from parts(member.reward, inner, optional or member.optional)


def is_judge(reward: Reward) -> bool:
    """Whether a vision-language model answers questions for it, alone or as one of several members."""
    from mmreward.judge.reward import JudgeReward

    return any(isinstance(part.reward, JudgeReward) for part in parts(reward))


def served_backend(reward: Reward) -> OpenAIBackend | None:
    """The backend of a judge behind a server; None for all other rewards."""
    from mmreward.judge.backends.openai import OpenAIBackend

    backend = getattr(reward, "backend", None)
    return backend if isinstance(backend, OpenAIBackend) else None
