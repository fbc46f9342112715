"""What a way of judging is: it turns edits into prompts, and a backend's answers into scores.

    way.score(groups, backend)      # for each group, a Score for each of its edits

A way knows no model and no file. Edits of one source with one instruction come as one group, so that what they share
can be asked once. The caller (`mmreward.judge.reward`) has opened all images, and has refused rows that do not apply.
"""

from __future__ import annotations

__all__ = ["Group", "PairWay", "Way"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from mmreward.judge.backends.backend import Backend
from mmreward.preference import Preference
from mmreward.score import Score


@dataclass(frozen=True, eq=False)
class Group:
    """Edits of one source by one instruction (and the same criteria, "" for none)."""

    instruction: str
    source: Image.Image
    edited: tuple[Image.Image, ...]
    criteria: str = ""


class Way(Protocol):
    """`version` names the words in which is asked and goes into provenance; `dims` are what its scores hold."""

    version: str
    dims: tuple[str, ...]

    def check(self, backend: Backend) -> None:
        """Raises ValueError where this backend cannot be asked this way."""

    def score(self, groups: Sequence[Group], backend: Backend) -> list[list[Score]]:
        """One score per edit, without provenance of the backend. Never raises for a row."""


@runtime_checkable
class PairWay(Way, Protocol):
    """A way that compares candidates with each other."""

    def compare(
        self, groups: Sequence[Group], pairs: Sequence[Sequence[tuple[int, int]]], backend: Backend
    ) -> list[list[Preference]]:
        """For each group, a preference for each of its pairs of indices of candidates. Never raises for a pair."""
