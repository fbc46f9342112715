"""Settings of a training run, and reading them from a recipe with errors a person can act on.

`LoopConfig` is all that the loop knows. A recipe's own settings are other pydantic models (``extra="forbid"``) that
hold one; `read_config` builds any of them and turns pydantic's complaints into one message that names each key and
the nearest known one.
"""

from __future__ import annotations

__all__ = ["ConfigError", "LoopConfig", "read_config"]

import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

Model = TypeVar("Model", bound=BaseModel)


class ConfigError(ValueError):
    """A recipe asks for something that does not exist or cannot be; the message says which key and how to mend it."""


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
    seed: int = 0
    save_minutes: float = Field(default=3.0, gt=0)
    log_every: int = Field(default=50, ge=1)

    @model_validator(mode="after")
    def _has_length(self) -> LoopConfig:
        if self.steps is None and self.minutes is None:
            raise ValueError("say how long to train: steps or minutes")
        return self


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """The keys allowed at `path` inside `model` (empty when the path leads into something that is not a model)."""
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        candidates = [field.annotation, *typing.get_args(field.annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def read_config(model: type[Model], values: Mapping[str, Any], where: str = "the recipe") -> Model:
    """Build `model` from `values`; on failure raise `ConfigError` with one line per problem."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            path = problem["loc"]
            key = ".".join(str(part) for part in path) or "settings"
            if problem["type"] == "extra_forbidden":
                known = _known_keys(model, path[:-1])
                near = difflib.get_close_matches(str(path[-1]), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else "known keys: " + ", ".join(sorted(known))
                lines.append(f"unknown key {key!r}; {hint}")
            elif problem["type"] == "missing":
                lines.append(f"missing key {key!r}")
            else:
                lines.append(f"{key}: {problem['msg']} (got {problem['input']!r})")
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None
