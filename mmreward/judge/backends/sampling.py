"""Drawing tokens: greedy, or from the nucleus with random numbers that belong to a pass and not to a batch.

Pass number i of every text uses the numbers of the seed `seed + i`, one a token; a number u picks the first token, from
the most probable on, at which the cumulative probability exceeds u. So a text does not depend on what is written beside
it, and candidates of one source meet the same luck.

Nucleus (top-p) sampling: A. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019,
https://arxiv.org/abs/1904.09751
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmreward.judge.backends.backend import Sampling, Text

__all__ = ["as_text", "luck", "passes", "pick", "stops"]


def passes(sampling: Sampling) -> int:
    """How many texts are written after a prompt; greedy ones are all the same."""
    return sampling.passes if sampling.temperature > 0 else 1


def luck(sampling: Sampling) -> Tensor:
    """Random numbers [passes, max_new_tokens] in [0, 1)."""
    drawn = []
    for number in range(passes(sampling)):
        generator = torch.Generator().manual_seed(sampling.seed + number)
        drawn.append(torch.rand(sampling.max_new_tokens, generator=generator))
    return torch.stack(drawn)


def pick(logits: Tensor, numbers: Tensor, sampling: Sampling) -> Tensor:
    """The next token [N] after logits [N, vocabulary], with one random number [N] each."""
    if sampling.temperature <= 0:
        return logits.argmax(-1)
    sorted_, order = (logits.float() / sampling.temperature).softmax(-1).sort(descending=True, stable=True)
    above = sorted_.cumsum(-1) - sorted_
    kept = torch.where(above < sampling.top_p, sorted_, 0.0)  # the first token that passes top_p is in
    kept[:, 0] = sorted_[:, 0]
    if sampling.top_k:
        kept[:, sampling.top_k :] = 0
    total = kept.cumsum(-1)
    place = (total > numbers.to(total)[:, None] * total[:, -1:]).int().argmax(-1)
    return order.gather(1, place[:, None])[:, 0]


def stops(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return {int(one) for one in (*ids, tokenizer.eos_token_id) if one is not None}


def as_text(tokenizer: Any, ids: Sequence[int], ending: set[int]) -> Text:
    """The text of new tokens, up to the first that ends it."""
    at = next((i for i, one in enumerate(ids) if one in ending), len(ids))
    return Text(tokenizer.decode(ids[:at], skip_special_tokens=True), finished=at < len(ids))
