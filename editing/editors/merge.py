"""A network with its LoRA merged, beside the network itself, without a second copy of it.

Only the adapted layers get new weights, one after the other, on the CPU: a network that fills its device can be merged
while it lies there. All other weights are shared with the network.
"""

__all__ = ["merged", "merged_bytes"]

import copy
from typing import Any

from torch import Tensor, nn


def merged(module: nn.Module) -> nn.Module:
    """`module` without adapters, their changes added to its weights (in float32, then rounded once), for saving;
    `module` itself where it has none. Neither `module` nor its weights are changed.
    """
    if not getattr(module, "peft_config", None):
        return module
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    plain: Any = copy.deepcopy(module, shared)  # new modules around the same tensors
    for name, layer in _adapted(plain):
        base = layer.get_base_layer()
        weight: Tensor = base.weight.detach()
        total = weight.cpu().float()
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                total = total + layer.get_delta_weight(adapter).detach().float().cpu()
        base.weight = nn.Parameter(total.to(weight.dtype), requires_grad=False)
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, base)
    del plain.peft_config
    plain._hf_peft_config_loaded = False
    return plain


def merged_bytes(module: nn.Module) -> int:
    """Memory on the CPU that `merged` takes besides what is there: the weights of the adapted layers."""
    return sum(layer.get_base_layer().weight.nbytes for _, layer in _adapted(module))


def _adapted(module: nn.Module) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)]
