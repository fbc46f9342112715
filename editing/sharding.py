"""FSDP2: a network too large for one device lies in parts on all of them (`policy.shard: true`).

Each block is put together for its own forward and backward pass and taken apart again. LoRA and full weights are the
same to it, and so are the sets of `editing.weights`: of each tensor, a process keeps its part. Every process must make
the same number of forward passes, or the others wait for it: hence shares of one size, and passes of weight 0.
Gradients come out of the backward pass as the mean over the processes.
"""

__all__ = ["prepare", "shard"]

from torch import nn

from editing.processes import Processes
from mmreward.config import ConfigError


def prepare(module: nn.Module, checkpointing: bool, sharded: bool, processes: Processes) -> None:
    """What has to be done to a network once it is known what is trained: gradient checkpointing (`checkpointing`), the
    same weights in all processes, and its parts dealt out (`sharded`).
    """
    if checkpointing:
        if not hasattr(module, "enable_gradient_checkpointing"):
            raise ConfigError(f"loop.gradient_checkpointing: {type(module).__name__} cannot do it; leave it out")
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    processes.same(module)
    if sharded:
        shard(module, processes.size)


def shard(module: nn.Module, processes: int) -> None:
    """Spread `module` over all processes, block by block; after it is known what is trained."""
    if processes == 1:
        raise ConfigError(
            "policy.shard: one process has nobody to share the network with; start with `accelerate launch "
            "--num_processes N -m mmreward train ...`, or set policy.shard: false"
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(module.parameters()).device.type, (processes,))
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated layers, by the names that models of diffusers give; none: the module is one piece."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [layer for layer in module.modules() if type(layer).__name__ in names]
