"""Which rows go through a model together, and what happens where memory does not suffice for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from mmreward.score import Failure

__all__ = ["attempt", "batches", "out_of_memory"]

_ON_CPU = "can't allocate memory"
"""What torch's allocator says on a CPU, in a plain RuntimeError."""

A = TypeVar("A")
B = TypeVar("B")


def batches(lengths: Sequence[float], limit: float) -> Iterator[list[int]]:
    """Indices in batches of about `limit` in length, padding counted, the longest first."""
    batch: list[int] = []
    longest = 0.0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = max(longest, lengths[index])
        if batch and longest * (len(batch) + 1) > limit:
            yield batch
            batch, longest = [], lengths[index]
        batch.append(index)
    if batch:
        yield batch


def attempt(run: Callable[[Sequence[A]], Sequence[B]], items: Sequence[A]) -> list[B | None]:
    """`run(items)`, in halves where memory does not suffice for all; None for an item that is too much alone."""
    try:
        return list(run(items))
    except (torch.OutOfMemoryError, MemoryError):
        pass  # left before trying again: the exception holds the tensors of the failed run
    except RuntimeError as error:
        if _ON_CPU not in str(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(items) == 1:
        return [None]
    middle = len(items) // 2
    return attempt(run, items[:middle]) + attempt(run, items[middle:])


def out_of_memory(what: str) -> Failure:
    """The failure of an item that `attempt` gave None for."""
    return Failure("error", f"{what} needs more memory than the device has; lower the options pixels or tokens")
