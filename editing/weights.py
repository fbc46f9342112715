"""The weights of a policy and its relatives: named sets of the trainable tensors of one module.

Full weights and LoRA are the same thing here: what is trainable is a table of tensors, and "start", "ema" or "old" are
copies of that table which can be swapped in. With LoRA the starting table is zero in every second factor, so the set
"start" is the untouched base model. The reference policy of a KL term is "start".
"""

__all__ = ["Policies", "PolicyConfig"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from editing.editors.editor import Editor
from mmreward.config import ConfigError
from mmreward.training.sharded import whole

Table = dict[str, Tensor]


class PolicyConfig(BaseModel, extra="forbid", frozen=True):
    """What is trained: all weights, those of some `layers`, or a LoRA on these."""

    weights: Literal["full", "layers", "lora"] = "lora"
    layers: tuple[str, ...] | None = None
    """Ends of the names of the layers; None: the editor's own list."""
    rank: int = Field(default=32, ge=1)
    alpha: int = Field(default=64, gt=0)
    shard: bool = False
    """Spread the network over all processes (FSDP2), where one device cannot hold it (see `editing.sharding`)."""
    export: Literal["both", "merged", "lora"] = "both"
    """What a run writes at its end: the whole editor, with a LoRA merged (`model`), the LoRA (`lora`), or both."""
    ema: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the averaged weights per update; the average is what is evaluated and saved. 0: no average."""
    keep: float = Field(default=0.0, ge=0, lt=1)
    """Share of the starting weights in what is evaluated and saved: start + (1 - keep) (average - start); needs `ema`.
    What was learned grows with the distance from the start and what was damaged with its square, so that half of the
    way can be better than all of it (Wortsman et al., Robust fine-tuning of zero-shot models, 2021,
    https://arxiv.org/abs/2109.01903).
    """

    @model_validator(mode="after")
    def _keep_of_an_average(self) -> "PolicyConfig":
        if self.keep and not self.ema:
            raise ValueError(f"keep {self.keep:g} is a share of the average, and with ema: 0 there is none; set ema")
        return self

    @model_validator(mode="after")
    def _has_what_it_exports(self) -> "PolicyConfig":
        if self.export == "lora" and self.weights != "lora":
            raise ValueError(f"export: lora (--lora-only), but weights: {self.weights} trains none; set weights: lora")
        return self

    @property
    def exports(self) -> tuple[str, ...]:
        """Names of the folders that a run writes at its end."""
        if self.weights != "lora":
            return ("model",)
        return {"both": ("model", "lora"), "merged": ("model",), "lora": ("lora",)}[self.export]


class Policies:
    """The present policy (in the module) and copies of it by name."""

    def __init__(self, module: nn.Module, names: tuple[str, ...] = ("start",)) -> None:
        self.module = module
        self.present: dict[str, nn.Parameter] = {n: p for n, p in module.named_parameters() if p.requires_grad}
        if not self.present:
            raise ValueError("nothing to train: no parameter of the module requires a gradient")
        self.sets: dict[str, Table] = {name: self._copy() for name in names}

    @classmethod
    def of(
        cls,
        editor: Editor,
        config: PolicyConfig,
        names: tuple[str, ...] = ("start",),
        prepare: Callable[[nn.Module], None] | None = None,
    ) -> "Policies":
        """Makes the editor's module trainable as `config` says. What is trained is float32, whatever the rest is: small
        steps would be rounded away. `prepare` is called with the module once that is settled.
        """
        module = editor.module.eval()
        layers = config.layers or tuple(editor.lora_targets)
        if config.weights == "full":
            module.requires_grad_(True)
        elif config.weights == "layers":
            module.requires_grad_(False)
            for layer in _named(module, layers):
                layer.requires_grad_(True)
        else:
            from peft import LoraConfig

            module.requires_grad_(False)
            module.add_adapter(  # type: ignore[operator]
                LoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,
                    init_lora_weights="gaussian",
                    target_modules=list(layers),
                )
            )
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if prepare:
            prepare(module)
        return cls(module, names)

    def parameters(self) -> list[nn.Parameter]:
        return list(self.present.values())

    @contextmanager
    def use(self, name: str, keep: float = 0.0) -> Iterator[None]:
        """The module has the weights of set `name` inside the `with`, moved towards "start" by the share `keep`.

        The parameters point to other memory meanwhile; only those that lie in parts (`policy.shard`) are copied.
        """
        table = self._towards_start(name, keep)
        if not all(_takes_memory_of(p, table[n]) for n, p in self.present.items()):
            now = self._copy()
            self._put(table)
            try:
                yield
            finally:
                self._put(now)
            return
        memory = {n: p.data for n, p in self.present.items()}
        self._point_to(table)
        try:
            yield
        finally:
            self._point_to(memory)

    def adopt(self, name: str, keep: float = 0.0) -> None:
        """The set `name`, moved towards "start" by the share `keep`, becomes the present policy."""
        self._put(self._towards_start(name, keep))

    def _towards_start(self, name: str, keep: float) -> Table:
        table = self.sets[name]
        return {n: torch.lerp(p, self.sets["start"][n], keep) for n, p in table.items()} if keep else table

    @torch.no_grad()
    def follow(self, name: str, decay: float) -> None:
        """Move set `name` towards the present policy: set = decay * set + (1 - decay) * present."""
        target = self.sets[name]
        torch._foreach_lerp_(
            [target[n] for n in self.present], [p.detach().float() for p in self.present.values()], 1 - decay
        )

    def distance(self, name: str) -> float:
        """Root mean square difference between the present weights and set `name`."""
        table = self.sets[name]
        squares = sum(float(whole((p.detach().float() - table[n]).square().sum())) for n, p in self.present.items())
        return (squares / sum(p.numel() for p in self.present.values())) ** 0.5

    def tables(self) -> dict[str, Table]:
        """Everything, for a checkpoint."""
        return {"policy": self._copy(), **{f"set_{name}": table for name, table in self.sets.items()}}

    def restore(self, tables: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `tables` gave."""
        self._put(tables["policy"])
        for name, table in self.sets.items():
            for key, value in tables[f"set_{name}"].items():
                table[key].copy_(value)

    def _copy(self) -> Table:
        return {name: p.detach().float().clone() for name, p in self.present.items()}

    def finite(self) -> bool:
        """Whether no present weight is NaN or infinite."""
        return all(bool(torch.isfinite(whole(p.detach())).all()) for p in self.present.values())

    @torch.no_grad()
    def _put(self, table: Mapping[str, Tensor]) -> None:
        for name, p in self.present.items():
            p.copy_(table[name])
        torch.clear_autocast_cache()

    def _point_to(self, table: Mapping[str, Tensor]) -> None:
        for name, p in self.present.items():
            p.data = table[name]
        torch.clear_autocast_cache()  # it keeps casts by parameter, and would go on with those of the other weights


def _takes_memory_of(parameter: nn.Parameter, tensor: Tensor) -> bool:
    plain = not hasattr(parameter, "full_tensor")  # a DTensor; asked without its import, which takes a second
    return plain and parameter.dtype == tensor.dtype and parameter.device == tensor.device


def _named(module: nn.Module, endings: tuple[str, ...]) -> list[nn.Module]:
    """The submodules whose names end so; each ending must have one."""
    found = []
    for ending in endings:
        layers = [layer for name, layer in module.named_modules() if f".{name}".endswith(f".{ending}")]
        if not layers:
            raise ConfigError(f"policy.layers: no layer of {type(module).__name__} has a name that ends in {ending!r}")
        found += layers
    return found
