"""Reward models for text-guided image editing: is this a good edit, and why?

>>> from mmreward import Edit, load_reward
>>> edit = Edit(instruction="make the circle blue", source="a.png", edited="b.png")
>>> score, = load_reward("vlm:tiny").score([edit])
"""

__all__ = ["Combination", "Edit", "Failure", "ImageError", "Reward", "Score", "Spread", "load_reward"]

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmreward.combine import Combination
    from mmreward.edit import Edit, ImageError
    from mmreward.reward import Reward, load_reward
    from mmreward.score import Failure, Score, Spread

_WHERE = {
    "Combination": "combine",
    "Edit": "edit",
    "Failure": "score",
    "ImageError": "edit",
    "Reward": "reward",
    "Score": "score",
    "Spread": "score",
    "load_reward": "reward",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"mmreward.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'mmreward' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
