"""Writing text after the leaves of prompt trees: what is shared is read once, for all passes too, then all texts of a
batch grow by a token at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmreward.judge.backends.backend import Sampling, Text
from mmreward.judge.backends.batches import attempt, out_of_memory
from mmreward.judge.backends.cached import CACHE, Cached, State
from mmreward.judge.backends.language import Language
from mmreward.judge.backends.sampling import as_text, luck, passes, pick, stops
from mmreward.judge.backends.tree import Node

__all__ = ["Writer"]


class Writer:
    """`tokens`: about how many go through the model at once."""

    def __init__(self, language: Language, tokenizer: Any, tokens: int) -> None:
        self.language, self.tokenizer, self.tokens = language, tokenizer, tokens
        self.ending = stops(language.model, tokenizer)

    def write(self, trees: Sequence[Node], sampling: Sampling) -> list[list[list[Text]]]:
        """For each tree, for each leaf, a text for each pass."""
        written = attempt(lambda some: self._write(some, sampling), trees)
        failure = out_of_memory("the prompt")
        too_much = [Text(status=failure.status, error=failure.error)] * sampling.passes
        return [
            [too_much] * tree.leaves if texts is None else texts for tree, texts in zip(trees, written, strict=True)
        ]

    def _write(self, trees: Sequence[Node], sampling: Sampling) -> list[list[list[Text]]]:
        found: dict[int, list[Text]] = {}

        def read(leaves: Sequence[Node], hidden: Tensor, state: State) -> None:
            count = passes(sampling)
            size = max(1, int(self.tokens * CACHE / (state.mask.shape[1] + sampling.max_new_tokens) / count))
            for start in range(0, len(leaves), size):
                some = leaves[start : start + size]
                rows = torch.arange(start, start + len(some)).repeat_interleave(count)
                texts = self._go_on(some, hidden[rows.to(hidden.device)], _select(state, rows), sampling)
                for i, leaf in enumerate(some):
                    own = texts[i * count : (i + 1) * count]
                    found[id(leaf)] = own if count == sampling.passes else own * sampling.passes

        Cached(self.language, self.tokens).walk(trees, read)
        return [[texts for end in tree.ends() for texts in self._of(end, found, sampling)] for tree in trees]

    def _of(self, end: Node, found: dict[int, list[Text]], sampling: Sampling) -> list[list[Text]]:
        if end.failed is None:
            return [found[id(end)]]
        failed = Text(status=end.failed.status, error=end.failed.error)
        return [[failed] * sampling.passes] * end.leaves

    def _go_on(self, leaves: Sequence[Node], hidden: Tensor, state: State, sampling: Sampling) -> list[Text]:
        """Texts of rows: `passes` after each leaf, side by side. Finished rows leave the batch."""
        device, count = self.language.device, passes(sampling)
        numbers = luck(sampling).repeat(len(leaves), 1).to(device)
        position = torch.tensor([leaf.end for leaf in leaves], device=device).repeat_interleave(count)
        axes = len(leaves[0].positions)
        limits = [max(1, min(sampling.max_new_tokens, self.language.longest - leaf.count)) for leaf in leaves]
        written: list[list[int]] = [[] for _ in range(len(hidden))]
        broken: set[int] = set()
        rows = list(range(len(hidden)))  # those still being written, and their places in all
        for step in range(max(limits)):
            logits = self.language.logits(hidden)
            chosen = pick(logits, numbers[rows, step], sampling)
            sound = torch.isfinite(logits).all(-1).tolist()
            going = []
            for place, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
                if not sound[place]:
                    broken.add(row)
                    continue
                written[row].append(token)
                if token not in self.ending and step + 1 < limits[row // count]:
                    going.append(place)
            if not going:
                break
            if len(going) < len(rows):
                state, chosen = _select(state, going), chosen[going]
                rows = [rows[place] for place in going]
            state = State(state.cache, torch.cat([state.mask, state.mask.new_ones(len(rows), 1)], 1))
            at = (position[rows] + step).expand(axes, -1)[..., None]
            hidden = self.language.hidden(chosen[:, None], at, state.mask, [], state.cache)[:, -1]
        return [self._text(ids, row in broken) for row, ids in enumerate(written)]

    def _text(self, ids: Sequence[int], broken: bool) -> Text:
        if broken:
            return Text(status="parse_error", error="the model's output is not finite (NaN or infinity)")
        return as_text(self.tokenizer, ids, self.ending)


def _select(state: State, rows: Sequence[int] | Tensor) -> State:
    """A copy with these rows, in this order, and with room for what is written."""
    from mmreward.judge.backends.room import roomy

    index = torch.as_tensor(rows, device=state.mask.device)
    return State(roomy(state.cache, index), state.mask[index])
