"""A prompt tree as tokens: what a language model reads at each node, with positions that go on from the node above.

Each path from root to leaf has the tokens and positions that it would have alone. How the tree goes through the model
(packed into one sequence, or node by node with a cache) is another matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from mmreward.judge.backends.families import Family, text_positions
from mmreward.judge.backends.vision import Picture
from mmreward.judge.backends.words import Frame, Words
from mmreward.judge.labels import Answer, failed, failed_by
from mmreward.judge.prompt import Given, Piece, Prompt

__all__ = ["Node", "Reader", "images_of", "split"]


@dataclass(frozen=True, eq=False)
class Node:
    """Token ids [N], positions [axes, N], the images in order of their tokens, and the nodes below.

    `end` is the position of what comes next, `count` the number of tokens from the root to here. `failed` is the answer
    of all leaves below where they cannot be asked; such a node has no children.
    """

    ids: np.ndarray
    positions: np.ndarray
    pictures: tuple[Picture, ...]
    end: int
    count: int
    children: tuple[Node, ...] = ()
    leaves: int = 1
    failed: Answer | None = None

    def ends(self) -> Iterator[Node]:
        """The leaves and failed nodes, in order."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.ends()

    @property
    def size(self) -> int:
        """Tokens of this node and all below."""
        return len(self.ids) + sum(child.size for child in self.children)


class Reader:
    """Turns prompts into trees of tokens. `longest`: most tokens of a path."""

    def __init__(self, words: Words, frame: Frame, family: Family, longest: int) -> None:
        self.words, self.frame, self.family, self.longest = words, frame, family, longest

    def read(self, prompt: Prompt, pictures: Mapping[int, Picture]) -> Node:
        return self._node(prompt, pictures, 0, 0, first=True)

    def _node(self, prompt: Prompt, pictures: Mapping[int, Picture], position: int, count: int, first: bool) -> Node:
        shown_here = (pictures.get(id(piece)) for piece in prompt.pieces)
        failure = next((picture.failure for picture in shown_here if picture and picture.failure), None)
        if failure:
            return self._failed(prompt, failed_by(failure))
        ids, positions, shown, end = self._write(prompt, pictures, position, first)
        count += len(ids)
        if count > self.longest and not prompt.branches:
            error = f"a text of {count} tokens is longer than the model takes ({self.longest})"
            return self._failed(prompt, failed("not_applicable", error))
        below = tuple(self._node(branch, pictures, end, count, first=False) for branch in _below(prompt))
        return Node(ids, positions, shown, end, count, below, prompt.leaves)

    def _failed(self, prompt: Prompt, answer: Answer) -> Node:
        nothing = np.zeros(0, np.int64)
        return Node(nothing, nothing[None].repeat(self.family.axes, 0), (), 0, 0, (), prompt.leaves, answer)

    def _write(
        self, prompt: Prompt, pictures: Mapping[int, Picture], position: int, first: bool
    ) -> tuple[np.ndarray, np.ndarray, tuple[Picture, ...], int]:
        ids: list[int] = []
        positions: list[np.ndarray] = []
        shown: list[Picture] = []
        beginning = next(prompt.paths())[:1] if first else None
        for piece in self.frame.runs(prompt.pieces, beginning, None if prompt.branches else prompt.answer):
            if isinstance(piece, Image.Image):
                picture = pictures[id(piece)]
                at, position = self.family.picture_positions(position, picture.prepared)
                ids += picture.prepared.ids
                shown.append(picture)
            else:
                own = self.words.given(piece.text) if isinstance(piece, Given) else self.words.fixed(piece)
                at = text_positions(position, len(own), self.family.axes)
                ids += own
                position += len(own)
            positions.append(at)
        return np.asarray(ids, np.int64), np.concatenate(positions, 1), tuple(shown), position

    def agrees(self, processor: Any, pictures: Mapping[int, Picture], pieces: tuple[Piece, ...], text: str) -> bool:
        """Whether the tokens of a path are those that the processor writes for `text`, its chat template's output."""
        images = [piece for piece in pieces if isinstance(piece, Image.Image)]
        whole = processor(text=[text], images=images, return_tensors="pt", add_special_tokens=False)["input_ids"][0]
        return self.read(Prompt(pieces), pictures).ids.tolist() == whole.tolist()


def _below(prompt: Prompt) -> Iterator[Prompt]:
    """The branches; those of a branch that adds nothing stand in its place."""
    for branch in prompt.branches:
        if branch.pieces or not branch.branches:
            yield branch
        else:
            yield from _below(branch)


def images_of(prompt: Prompt) -> Iterator[Image.Image]:
    """All images of a prompt."""
    yield from (piece for piece in prompt.pieces if isinstance(piece, Image.Image))
    for branch in prompt.branches:
        yield from images_of(branch)


def split(node: Node, limit: int) -> Iterator[Node]:
    """The tree, or trees with fewer branches of the root each where it holds more than `limit` tokens."""
    sizes = [child.size for child in node.children]
    room = limit - len(node.ids)
    if sum(sizes) <= room or len(sizes) < 2:
        yield node
        return
    start, used = 0, 0
    for index, size in enumerate(sizes):
        if index > start and used + size > room:
            yield _part(node, node.children[start:index])
            start, used = index, 0
        used += size
    yield _part(node, node.children[start:])


def _part(node: Node, children: Sequence[Node]) -> Node:
    return replace(node, children=tuple(children), leaves=sum(child.leaves for child in children))
