"""Tensors of which each of several processes holds a part (`DTensor`, FSDP2), and whole ones: there and back.

Checkpoints hold whole tensors, so that a run may go on with another number of processes. All processes must call these
functions, and in the same order.
"""

from __future__ import annotations

__all__ = ["in_parts", "like", "whole"]

from typing import Any

from torch import Tensor


def whole(tensor: Tensor, keep: bool = True) -> Tensor:
    """`tensor`; of one that is spread over processes all parts, on the CPU, or nothing where `keep` is false."""
    if not in_parts(tensor):
        return tensor
    full: Tensor = tensor.full_tensor()  # type: ignore[attr-defined]
    return full.cpu() if keep else full.new_empty(0, device="cpu")


def like(tensor: Tensor, example: Tensor) -> Tensor:
    """`tensor`, spread over the processes as `example` is where their shapes agree."""
    if not in_parts(example) or in_parts(tensor) or tensor.shape != example.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    parts: Any = example
    return distribute_tensor(tensor.to(example.device), parts.device_mesh, parts.placements, src_data_rank=None)


def in_parts(tensor: Tensor) -> bool:
    """Whether each process holds a part of it (asked without the import of `DTensor`, which takes a second)."""
    return hasattr(tensor, "full_tensor")
