"""Settings of a training run. `LoopConfig` is all that the loop knows; a recipe's own settings are other pydantic
models that hold one.
"""

from __future__ import annotations

__all__ = ["LoopConfig"]

from typing import Literal

from pydantic import BaseModel, Field, model_validator


class LoopConfig(BaseModel, extra="forbid", frozen=True):
    """How long, how fast and how safely to train. `minutes`, where given, replaces `steps` as the length (and for the
    decay).
    """

    steps: int | None = Field(default=None, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    lr: float = Field(gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    muon_lr: float = Field(default=0.01, gt=0)
    warmup: int = Field(default=100, ge=0)
    decay: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    autocast: Literal["bf16", "no"] = "bf16"
    compile: bool = False
    """Fuse the network's operations where a C++ compiler is found (see `mmreward.training.compiled`)."""
    seed: int = 0
    save_minutes: float = Field(default=3.0, gt=0)
    log_every: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _has_length(self) -> LoopConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("say how long to train: steps or minutes")
        return self
