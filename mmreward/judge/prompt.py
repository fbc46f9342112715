"""What is asked of a judge: a tree of pieces of text and images.

Candidates of one source share the instruction and the source image, questions about one candidate share its image too.
So a prompt is a root (what all share) with branches, these may branch again, and each leaf is one question with one
answer. A backend may compute what is shared once; the answers are those of asking each path from root to leaf alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

__all__ = ["Fixed", "Given", "Piece", "Prompt"]


@dataclass(frozen=True)
class Fixed:
    """Text of ours: part of the question."""

    text: str


@dataclass(frozen=True)
class Given:
    """Text of others (an instruction): data, in which nothing is a control token."""

    text: str


Piece = Fixed | Given | Image.Image


@dataclass(frozen=True, eq=False)
class Prompt:
    """Pieces, and the prompts that go on from them; without branches it ends in an answer, which begins with the text
    `answer` (put behind what the chat template opens the answer with).
    """

    pieces: tuple[Piece, ...]
    branches: tuple[Prompt, ...] = ()
    answer: str = ""

    @property
    def leaves(self) -> int:
        """Number of answers."""
        return sum(branch.leaves for branch in self.branches) or 1

    def paths(self, before: tuple[Piece, ...] = ()) -> Iterator[tuple[Piece, ...]]:
        """The pieces of each path from root to leaf, in order."""
        pieces = before + self.pieces
        if not self.branches:
            yield pieces
        for branch in self.branches:
            yield from branch.paths(pieces)

    def beginnings(self) -> Iterator[str]:
        """What the answer of each path begins with, in the order of `paths`."""
        if not self.branches:
            yield self.answer
        for branch in self.branches:
            yield from branch.beginnings()
