"""A prompt tree level by level, with the keys and values of what is above kept in a cache: for models whose attention
takes no mask of its own for each pair of tokens, and for writing text, which starts from a cache anyway.

Nodes of one level go through the model together, padded on the right; a node's cache is a copy of its parent's, and
the padding of earlier levels stays masked. Positions are explicit. So each path reads as it would alone, what paths
share is computed once, and what is shared is copied, which packing avoids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmreward.judge.backends.batches import attempt, batches, out_of_memory
from mmreward.judge.backends.language import Language
from mmreward.judge.backends.tree import Node
from mmreward.judge.labels import Answer, LabelIds, answers, failed_by

__all__ = ["Cached", "State"]

CACHE = 8
"""Tokens in a cache weigh about this many times less than tokens that go through the model."""


@dataclass(frozen=True, eq=False)
class State:
    """What rows have read: their cache, and which of its places are theirs [B, L]."""

    cache: Any
    mask: Tensor

    def select(self, rows: Sequence[int] | Tensor) -> State:
        """A copy with these rows, in this order; a row may come several times."""
        from transformers import DynamicCache

        index = torch.as_tensor(rows, device=self.mask.device)
        cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            cache.update(layer.keys[index], layer.values[index], number)
        return State(cache, self.mask[index])


Read = Callable[[Sequence[Node], Tensor, State], None]
"""Called with leaves, the hidden states [N, D] at their ends, and what they have read."""


class Cached:
    """Walks trees. `tokens`: about how many go through the model at once."""

    def __init__(self, language: Language, tokens: int) -> None:
        self.language, self.tokens = language, tokens

    def probabilities(self, trees: Sequence[Node], labels: LabelIds) -> list[list[Answer]]:
        answered = attempt(lambda some: self._answer(some, labels), trees)
        too_much = failed_by(out_of_memory("the prompt"))
        return [[too_much] * tree.leaves if row is None else row for tree, row in zip(trees, answered, strict=True)]

    def _answer(self, trees: Sequence[Node], labels: LabelIds) -> list[list[Answer]]:
        found: dict[int, Answer] = {}

        def read(leaves: Sequence[Node], hidden: Tensor, state: State) -> None:
            told = answers(labels.probabilities(self.language.logits(hidden)))
            found.update(zip(map(id, leaves), told, strict=True))

        self.walk(trees, read)
        return [
            [one for end in tree.ends() for one in ([end.failed] * end.leaves if end.failed else [found[id(end)]])]
            for tree in trees
        ]

    def chances(self, trees: Sequence[Node], labels: LabelIds) -> Tensor:
        """Probabilities [leaves, labels] of trees without a failed node, tree by tree, with gradients."""
        found: dict[int, Tensor] = {}

        def read(leaves: Sequence[Node], hidden: Tensor, state: State) -> None:
            found.update(zip(map(id, leaves), labels.probabilities(self.language.logits(hidden)), strict=True))

        self.walk(trees, read)
        return torch.stack([found[id(end)] for tree in trees for end in tree.ends()])

    def walk(self, nodes: Sequence[Node], read: Read, parents: Sequence[int] = (), before: State | None = None) -> None:
        """Reads nodes and all below; node i goes on from row `parents[i]` of `before`."""
        past = before.mask.shape[1] if before else 0
        asked = [i for i, node in enumerate(nodes) if not node.failed and (len(node.ids) or node.children)]
        for batch in batches([len(nodes[i].ids) + past / CACHE for i in asked], self.tokens):
            some = [nodes[asked[i]] for i in batch]
            start = before.select([parents[asked[i]] for i in batch]) if before else None
            hidden, state = self._extend(some, start)
            ends = [i for i, node in enumerate(some) if not node.children]
            if ends:
                last = torch.tensor([len(some[i].ids) - 1 for i in ends], device=hidden.device)
                rows = torch.tensor(ends, device=hidden.device)
                whole = state if len(ends) == len(some) else state.select(rows)
                read([some[i] for i in ends], hidden[rows, last], whole)
            below = [(child, i) for i, node in enumerate(some) for child in node.children]
            if below:
                self.walk([child for child, _ in below], read, [i for _, i in below], state)

    def _extend(self, nodes: Sequence[Node], before: State | None) -> tuple[Tensor, State]:
        """Hidden states [B, L, D] of nodes, and what has been read after them. Appends to the cache of `before`."""
        from transformers import DynamicCache

        device, longest = self.language.device, max(len(node.ids) for node in nodes)
        ids = np.zeros((len(nodes), longest), np.int64)
        positions = np.zeros((len(nodes[0].positions), len(nodes), longest), np.int64)
        own = np.zeros((len(nodes), longest), bool)
        for i, node in enumerate(nodes):
            count = len(node.ids)
            ids[i, :count], positions[:, i, :count], own[i, :count] = node.ids, node.positions, True
        mask = torch.from_numpy(own).to(device)
        state = State(DynamicCache(), mask)
        if before:
            state = State(before.cache, torch.cat([before.mask, mask], 1))
        hidden = self.language.hidden(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(positions).to(device),
            state.mask,
            [picture for node in nodes for picture in node.pictures],
            state.cache,
        )
        return hidden, state
