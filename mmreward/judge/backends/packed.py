"""A prompt tree as one sequence, for models that take a 4-D mask and explicit positions.

The nodes of a tree are written one after the other, depth first. A token sees the earlier tokens of its own node and
all tokens of the nodes above it; its position goes on from the end of the node above, as if nothing lay between. So
each path reads exactly as it would alone, and what paths share is computed once, in one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mmreward.judge.backends.batches import attempt, batches, out_of_memory
from mmreward.judge.backends.language import Language
from mmreward.judge.backends.tree import Node, split
from mmreward.judge.backends.vision import Picture
from mmreward.judge.labels import Answer, LabelIds, answers, failed_by

__all__ = ["Packed"]

_TOO_MUCH = failed_by(out_of_memory("the prompt"))


@dataclass(frozen=True, eq=False)
class _Row:
    """A tree as one sequence: ids [N], positions [axes, N], the end of each token's subtree [N], pictures in order, and
    for each leaf or failed node where the answer is read and how many leaves it stands for.
    """

    ids: np.ndarray
    positions: np.ndarray
    reach: np.ndarray
    pictures: list[Picture]
    ends: list[tuple[int, Node]]


class Packed:
    """Answers of trees. `tokens`: about how many go through the model at once."""

    def __init__(self, language: Language, tokens: int) -> None:
        self.language, self.tokens = language, tokens

    def probabilities(self, trees: Sequence[Node], labels: LabelIds) -> list[list[Answer]]:
        parts = [(number, part) for number, tree in enumerate(trees) for part in split(tree, self.tokens)]
        rows = [_row(part) for _, part in parts]
        results: dict[int, list[Answer]] = {}
        for batch in batches([len(row.ids) for row in rows], self.tokens):
            for i, row in zip(
                batch, attempt(lambda some: self._run(some, labels), [rows[i] for i in batch]), strict=True
            ):
                results[i] = [_TOO_MUCH] * parts[i][1].leaves if row is None else row
        found: list[list[Answer]] = [[] for _ in trees]
        for index, (number, _) in enumerate(parts):
            found[number] += results[index]
        return found

    def _run(self, rows: Sequence[_Row], labels: LabelIds) -> list[list[Answer]]:
        read = [(i, at) for i, row in enumerate(rows) for at, node in row.ends if node.failed is None]
        told = iter(answers(self._read(rows, read, labels)) if read else [])
        return [
            [
                answer
                for _, node in row.ends
                for answer in ([next(told)] if node.failed is None else [node.failed] * node.leaves)
            ]
            for row in rows
        ]

    def chances(self, trees: Sequence[Node], labels: LabelIds) -> Tensor:
        """Probabilities [leaves, labels] of trees without a failed node, tree by tree, with gradients."""
        rows = [_row(tree) for tree in trees]
        found: dict[int, Tensor] = {}
        for batch in batches([len(row.ids) for row in rows], self.tokens):
            some = [rows[i] for i in batch]
            told = self._read(some, [(i, at) for i, row in enumerate(some) for at, _ in row.ends], labels)
            found |= zip(batch, told.split([len(row.ends) for row in some]), strict=True)
        return torch.cat([found[i] for i in range(len(rows))])

    def _read(self, rows: Sequence[_Row], read: Sequence[tuple[int, int]], labels: LabelIds) -> Tensor:
        """Probabilities [N, labels] at places (row, token) of rows."""
        device = self.language.device
        ids, positions, reach = (torch.from_numpy(array).to(device) for array in _pad(rows))
        pictures = [picture for row in rows for picture in row.pictures]
        hidden = self.language.hidden(ids, positions, _mask(reach, self.language.model.dtype), pictures)
        where = torch.tensor(read, device=device)
        return labels.probabilities(self.language.logits(hidden[where[:, 0], where[:, 1]]))


def _row(tree: Node) -> _Row:
    nodes: list[tuple[Node, int]] = []
    ends: list[tuple[int, Node]] = []
    pictures: list[Picture] = []
    length = 0

    def visit(node: Node) -> None:
        nonlocal length
        place = len(nodes)
        nodes.append((node, 0))
        length += len(node.ids)
        pictures.extend(node.pictures)
        if not node.children:
            ends.append((length - 1, node))
        for child in node.children:
            visit(child)
        nodes[place] = (node, length)

    visit(tree)
    return _Row(
        np.concatenate([node.ids for node, _ in nodes]),
        np.concatenate([node.positions for node, _ in nodes], 1),
        np.repeat([end for _, end in nodes], [len(node.ids) for node, _ in nodes]),
        pictures,
        ends,
    )


def _mask(reach: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the attention of token i to token j, 0 or minus infinity: [B, 1, L, L] from reach [B, L].

    Made once in the model's dtype, with rows that begin at multiples of 8 numbers: from a mask of bools each layer
    would make it anew.
    """
    count = reach.shape[1]
    columns = torch.arange(count + -count % 8, device=reach.device)
    rows = columns[:count, None]
    seen = (rows >= columns) & (rows < pad(reach, (0, -count % 8))[:, None])
    mask = torch.zeros(seen.shape, dtype=dtype, device=reach.device).masked_fill_(~seen, -torch.inf)
    return mask[:, None, :, :count]


def _pad(rows: Sequence[_Row]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids [B, L], positions [axes, B, L], reach [B, L]; padding has id 0 and sees itself alone."""
    longest = max(len(row.ids) for row in rows)
    ids = np.zeros((len(rows), longest), np.int64)
    positions = np.zeros((len(rows[0].positions), len(rows), longest), np.int64)
    reach = np.tile(np.arange(1, longest + 1), (len(rows), 1))
    for i, row in enumerate(rows):
        count = len(row.ids)
        ids[i, :count], positions[:, i, :count], reach[i, :count] = row.ids, row.positions, row.reach
    return ids, positions, reach
