"""Whether a language model takes what shared prompts rest on: a cache of what was read, and a mask for each pair.

A forward that swallows either, because this version of transformers calls it otherwise or the model ignores it, raises
nothing and answers from the branch alone: every edit gets the same confident number. So each is tried once when a
model is loaded, on a prefix and a branch of a few tokens. With h the hidden state at the branch's end,

    | h(shared) - h(whole) | < 1/4 | h(branch without the prefix) - h(whole) |

Rounding in bfloat16 takes the left side to some hundredths of the right; a prefix that is not seen makes them equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmreward.judge.backends.language import Language

__all__ = ["check_cache", "check_mask"]

_SHARE = 0.25


def check_cache(language: Language, prefix: Sequence[int], branch: Sequence[int], axes: int) -> None:
    """Raises ValueError where a branch that goes on from a cache does not see the prefix in it."""
    from transformers import DynamicCache

    cache, start, end = DynamicCache(), len(prefix), len(prefix) + len(branch)
    _hidden(language, prefix, range(start), axes, cache=cache)
    shared = _hidden(language, branch, range(start, end), axes, cache=cache, seen=end)
    _compare(language, prefix, branch, axes, shared, "does not use the cache that it is given")


def check_mask(language: Language, prefix: Sequence[int], branch: Sequence[int], axes: int) -> None:
    """Raises ValueError where a branch beside another one in the same sequence does not see the prefix alone."""
    start, end = len(prefix), len(prefix) + len(branch)
    other = list(reversed(branch))
    count = end + len(branch)
    mask = torch.ones(count, count, dtype=torch.bool).tril()
    mask[end:, start:end] = False
    positions = [*range(end), *range(start, end)]
    added = torch.zeros(1, 1, count, count, dtype=language.model.dtype).masked_fill_(~mask, -torch.inf)
    shared = _hidden(language, [*prefix, *other, *branch], positions, axes, mask=added)
    _compare(language, prefix, branch, axes, shared, "does not use the mask or the positions that it is given")


def _compare(
    language: Language, prefix: Sequence[int], branch: Sequence[int], axes: int, shared: Tensor, fault: str
) -> None:
    start, end = len(prefix), len(prefix) + len(branch)
    whole = _hidden(language, [*prefix, *branch], range(end), axes)
    alone = _hidden(language, branch, range(start, end), axes)
    if not bool(torch.isfinite(whole).all()):
        return  # each answer says so
    if not (shared - whole).norm() <= _SHARE * (alone - whole).norm():
        raise ValueError(f"the language model {type(language.decoder).__name__} {fault}")


def _hidden(
    language: Language,
    ids: Sequence[int],
    positions: Sequence[int],
    axes: int,
    *,
    mask: Tensor | None = None,
    cache: object = None,
    seen: int = 0,
) -> Tensor:
    """The hidden state [D] at the last token. `seen`: tokens in cache and ids, where more than these ids."""
    device = language.device
    at = torch.tensor(positions, device=device).expand(axes, 1, -1)
    if mask is None:
        mask = torch.ones(1, seen or len(ids), dtype=torch.bool)
    return language.hidden(torch.tensor([ids], device=device), at, mask.to(device), [], cache)[0, -1].float()
