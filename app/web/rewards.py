"""The rewards of a page: loaded when they are first needed, each one's failure kept to itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from mmreward import Edit, Reward, load_reward
from mmreward.score import Score

__all__ = ["DEFAULT_REWARDS", "PageRewards"]

DEFAULT_REWARDS = ("pixels", "clip:tiny", "vlm:tiny")


class PageRewards:
    """Scores edits with several rewards. A reward that cannot be loaded, or breaks, says so in its scores."""

    def __init__(self, specs: Sequence[str] = DEFAULT_REWARDS) -> None:
        self.specs = tuple(dict.fromkeys(specs))
        self._loaded: dict[str, Reward] = {}
        self._lock = threading.Lock()

    def score(self, spec: str, edits: Sequence[Edit]) -> list[Score]:
        """One score per edit, in order; never raises."""
        try:
            with self._lock:
                if spec not in self._loaded:
                    self._loaded[spec] = load_reward(spec)
                return self._loaded[spec].score(edits)
        except Exception as error:  # one reward's trouble, whatever it is, must not take the page with it
            reason = f"the reward could not be used: {error}" if str(error) else f"the reward failed: {error!r}"
            return [Score.failed("io_error", reason) for _ in edits]
