"""Optimisers, learning-rate schedule and moving average of a run.

AdamW, or Muon for hidden matrices with AdamW for the rest (K. Jordan 2024, `torch.optim.Muon`); linear warm-up, then
cosine decay; EMA with the usual early warm-up min(decay, (1 + step) / (10 + step)).
"""

from __future__ import annotations

__all__ = ["Ema", "Group", "Optimizers", "TrainingError", "default_groups", "lr_factor"]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmreward.training.checkpoint import pack_optimizer, unpack_optimizer
from mmreward.training.config import LoopConfig
from mmreward.training.sharded import in_parts


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser, a factor on its learning rate and a weight decay (None = the
    configuration's).
    """

    parameters: Sequence[nn.Parameter]
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr_scale: float = 1.0
    weight_decay: float | None = None


def default_groups(module: nn.Module, config: LoopConfig) -> list[Group]:
    """AdamW for all; with ``optimizer: muon``, Muon for the weights of Linear layers that are no head and AdamW for
    the rest.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        return [Group(trainable)]
    hidden = {
        id(layer.weight)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "head" not in name.rsplit(".", 1)[-1] and min(layer.weight.shape) > 1
    }
    embeddings = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Embedding)}
    hidden -= embeddings
    return [
        Group([p for p in trainable if id(p) in hidden], "muon"),
        Group([p for p in trainable if id(p) not in hidden]),
    ]


class Optimizers:
    """The optimisers of a run behind one interface: set the learning rate, step, save, restore."""

    def __init__(self, groups: Sequence[Group], config: LoopConfig) -> None:
        self._all: dict[str, torch.optim.Optimizer] = {}
        for kind, base in (("adamw", config.lr), ("muon", config.muon_lr)):
            chosen = [
                {
                    "params": list(g.parameters),
                    "base_lr": base * g.lr_scale,
                    "lr": base * g.lr_scale,
                    "weight_decay": config.weight_decay if g.weight_decay is None else g.weight_decay,
                }
                for g in groups
                if g.optimizer == kind and len(g.parameters)
            ]
            if chosen and kind == "adamw":
                self._all[kind] = torch.optim.AdamW(chosen, lr=base, weight_decay=config.weight_decay)
            elif chosen:
                self._all[kind] = torch.optim.Muon(chosen, lr=base, weight_decay=config.weight_decay)
        if not self._all:
            raise TrainingError("nothing to train: no parameter requires a gradient")

    def parameters(self) -> list[nn.Parameter]:
        return [p for optimizer in self._all.values() for group in optimizer.param_groups for p in group["params"]]

    def step(self, lr_factor: float) -> None:
        for optimizer in self._all.values():
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * lr_factor
            optimizer.step()
        self.zero_grad()

    def zero_grad(self) -> None:
        for optimizer in self._all.values():
            optimizer.zero_grad(set_to_none=True)

    def pack(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        packed = {kind: pack_optimizer(optimizer) for kind, optimizer in self._all.items()}
        return (
            {f"optimizer_{kind}": tensors for kind, (tensors, _) in packed.items()},
            {kind: state for kind, (_, state) in packed.items()},
        )

    def unpack(self, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
        for kind, optimizer in self._all.items():
            unpack_optimizer(optimizer, tensors[f"optimizer_{kind}"], state[kind])


class Ema:
    """A float32 moving average of the trainable parameters of a module."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().float().clone() for name, p in module.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = dict(module.named_parameters())
        for parts in (False, True):  # which no operation takes together
            names = [name for name, value in self.values.items() if in_parts(value) == parts]
            if names:
                now = [current[name].detach().float() for name in names]
                torch._foreach_lerp_([self.values[name] for name in names], now, weight)

    def state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """The module's full state dict with the averages in place of the trainable parameters."""
        return {
            name: self.values[name].to(value.dtype) if name in self.values else value.detach().clone()
            for name, value in module.state_dict().items()
        }


def lr_factor(config: LoopConfig, step: int, fraction: float) -> float:
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))) if config.decay == "cosine" else 1.0)
