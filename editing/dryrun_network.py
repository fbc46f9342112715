"""Numbers of a network, with weights or on torch's meta device: parameters, what a recipe trains, work and memory."""

__all__ = ["blocks", "count", "measure", "size_of", "trained"]

from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from editing.recipe import Recipe
from editing.weights import Policies


def trained(network: Any, targets: tuple[str, ...], recipe: Recipe) -> dict[str, Any]:
    """What the recipe's policy trains in `network`, which is made trainable so."""
    editor: Any = SimpleNamespace(module=network, lora_targets=targets)
    with torch.device(next(network.parameters()).device):
        policies = Policies.of(editor, recipe.policy, ())
    parameters = policies.parameters()
    layers = sum(hasattr(module, "lora_A") for module in network.modules())
    return {
        "trainable": sum(p.numel() for p in parameters),
        "trainable_bytes": size_of(parameters),
        "layers": layers or None,
    }


def measure(predict: Callable[[], Tensor], network: nn.Module, context: Callable[[], ExitStack]) -> tuple[int, int]:
    """Multiplications and additions of a prediction, and bytes that it keeps for the backward pass."""
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own and not _is_attention(tensor):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with context(), hooks, FlopCounterMode(display=False) as counter:
        predict()
    return int(counter.get_total_flops()), sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _is_attention(tensor: Tensor) -> bool:
    """Attention's own matrices, which no GPU kernel keeps."""
    return tensor.device.type == "meta" and tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2]


def blocks(network: nn.Module) -> int:
    """Blocks that gradient checkpointing would compute again one by one."""
    lists = (module for module in network.modules() if isinstance(module, nn.ModuleList))
    return max(sum(len(one) for one in lists if hasattr(one, "__len__") and _is_blocks(one)), 1)


def _is_blocks(modules: nn.ModuleList) -> bool:
    return any("Block" in type(module).__name__ for module in modules)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def size_of(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
