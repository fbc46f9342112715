"""The settings of a reward training recipe (`task: reward`), readable top to bottom as YAML."""

__all__ = ["AnchorConfig", "EvaluationConfig", "Recipe", "RewardLoop", "RolloutConfig", "load_algorithm"]

from importlib import import_module
from typing import Any, Literal
from urllib.parse import parse_qs

import torch
from pydantic import BaseModel, Field, field_validator, model_validator

from editing.advantage import AdvantageConfig
from editing.algorithms import ALGORITHMS
from editing.algorithms.algorithm import Algorithm
from editing.data import TaskConfig
from editing.roles import RolesConfig
from editing.transition import rule_from
from editing.weights import PolicyConfig
from mmreward.config import ConfigError, read_config
from mmreward.training import LoopConfig


class RolloutConfig(BaseModel, extra="forbid", frozen=True):
    """How an iteration samples: `groups` tasks, `members` edits each, noise in a window of steps, the ODE before and
    after. Algorithms without trajectories can do without noise in the steps: `window: 0`.
    """

    groups: int = Field(default=16, ge=1)
    members: int = Field(default=8, ge=2)
    steps: int = Field(default=8, ge=1)
    window: int = Field(default=3, ge=0)
    place: Literal["first", "sliding"] = "first"
    """Where the window lies: at the first steps, or one step further in each iteration and then from the first again.
    After MixGRPO (Li et al., 2025, https://arxiv.org/abs/2507.21802), whose window stays at each place for 25
    iterations, and which samples the steps behind the window with a solver of second order ("Flash")."""
    within: int | None = Field(default=None, ge=1)
    """A sliding window stays in the first so many steps; None: in all but the last."""
    start: Literal["own", "shared"] = "own"
    """Whether each member of a group begins from noise of its own, or all from the same: then they differ by what the
    steps of the window did, and by nothing else; the steps before it are sampled once for the group. With a sliding
    window of one step every score says something about one step, as in TempFlow-GRPO (He et al., 2025,
    https://arxiv.org/abs/2508.04324), which besides weights the loss of each step by its std."""
    rule: str = "flow"
    eta: float = Field(default=0.7, gt=0)
    batch: int = Field(default=128, ge=1)
    """Samples in one forward pass."""

    def window_of(self, iteration: int) -> range:
        """The steps with noise, which are trained on, in this iteration."""
        start = iteration % (self.trained - self.window + 1) if self.place == "sliding" else 0
        return range(start, start + self.window)

    @property
    def trained(self) -> int:
        """The first so many steps are trained, in one iteration or another."""
        return (self.within or self.steps - 1) if self.place == "sliding" else self.window

    @property
    def noisy(self) -> int:
        """The first so many steps have noise: all of flow and dance; of cps and ddim all but the last."""
        last = rule_from(self.rule, self.eta).coefficients(torch.tensor(0.5), torch.tensor(0.0))
        return self.steps if last.std > 0 else self.steps - 1

    @model_validator(mode="after")
    def _possible(self) -> "RolloutConfig":
        rule_from(self.rule, self.eta)
        without = f"the last step has no noise with the rule {self.rule!r}"
        if self.window > self.steps:
            raise ValueError(f"window {self.window} is more than the {self.steps} steps")
        if self.window > self.noisy:
            raise ValueError(f"window {self.window} must be smaller than steps {self.steps}: {without}")
        if self.within and self.place != "sliding":
            raise ValueError("within is for a sliding window; set place: sliding, or leave it out")
        if self.within and not self.window <= self.within <= self.noisy:
            most = f"{self.noisy}" + ("" if self.noisy == self.steps else f" of the {self.steps} steps ({without})")
            raise ValueError(f"within {self.within}: expected at least the window, {self.window}, and at most {most}")
        if self.place == "sliding" and self.window > self.trained:
            raise ValueError(
                f"a sliding window of {self.window} needs {self.window + 1} steps or more; set place: first"
            )
        if self.start == "shared" and not self.window:
            raise ValueError("start: shared needs noise in the steps, or all edits of a group are one; set window")
        return self


class RewardLoop(LoopConfig, frozen=True):
    """The loop's own settings; `steps` counts iterations, `lr` is that of the policy."""

    lr: float = Field(default=1e-4, gt=0)
    warmup: int = Field(default=5, ge=0)
    decay: Literal["cosine", "constant"] = "constant"
    log_every: int = Field(default=1, ge=1)
    updates: int = Field(default=2, ge=1)
    """Optimiser steps per iteration, each on its share of the samples. With 1, all samples come from the weights that
    are updated: every ratio is 1, and `algorithm.clip` never acts."""
    micro_batch: int = Field(default=64, ge=1)
    """Rows in one training forward and backward; gradients add up over all of an update, whatever it is."""
    gradient_checkpointing: bool = False
    """Compute the network's activations again in the backward pass: a third more time, a fraction of the memory."""
    overlap: bool = False
    """Score samples while the next ones are made, under the same weights (see `editing.scoring`)."""
    max_failures: float = Field(default=0.2, ge=0, le=1)
    """The run stops when a larger share of edits than this went without a score over the last ten iterations."""

    @model_validator(mode="after")
    def _one_average(self) -> "RewardLoop":
        if self.ema is not None:
            raise ValueError("the average of a policy's weights is policy.ema; leave loop.ema out")
        return self


class AnchorConfig(BaseModel, extra="forbid", frozen=True):
    """How strongly the last steps of sampling are held where they were (see `editing.anchor`)."""

    weight: float = Field(default=0.03, gt=0)
    steps: int = Field(default=3, ge=1)
    """How many of the last steps of sampling."""
    every: int = Field(default=4, ge=1)
    """One of so many samples, at one of its steps each."""


class EvaluationConfig(BaseModel, extra="forbid", frozen=True):
    """The monitor's tasks (validation) and the final measure's (test)."""

    every: int = Field(default=20, ge=1)
    """Iterations from one look of the monitor to the next; image grids are made then too."""
    monitor: TaskConfig = TaskConfig(split="validation")
    monitor_tasks: int = Field(default=64, ge=2)
    final: TaskConfig = TaskConfig(split="test")
    final_tasks: int = Field(default=512, ge=2)


class Recipe(BaseModel, extra="forbid", frozen=True):
    """A whole run."""

    editor: str = "tiny"
    data: TaskConfig = TaskConfig()
    roles: RolesConfig
    rollout: RolloutConfig = RolloutConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    algorithm: dict[str, Any] = Field(default_factory=lambda: {"name": "grpo"})
    policy: PolicyConfig = PolicyConfig()
    anchor: AnchorConfig | None = None
    loop: RewardLoop
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = []
    """Where the curves go besides `log.jsonl` (see `editing.trackers`)."""

    @field_validator("algorithm")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value.get("name") not in ALGORITHMS:
            raise ValueError(f"algorithm.name must be one of {', '.join(ALGORITHMS)}")
        return value

    @model_validator(mode="after")
    def _divides(self) -> "Recipe":
        samples = self.rollout.groups * self.rollout.members
        if self.loop.updates > samples:
            raise ValueError(f"loop.updates {self.loop.updates} is more than the {samples} samples of an iteration")
        untrained = self.rollout.steps - self.rollout.trained
        if self.anchor and self.anchor.steps > untrained:
            raise ValueError(
                f"anchor.steps: {self.anchor.steps} of {self.rollout.steps} steps, of which rewards train the first "
                f"{self.rollout.trained}; hold at most the last {untrained}"
            )
        if self.policy.weights == "layers" and self.loop.autocast == "no" and _half(self.editor):
            raise ValueError(
                "policy.weights: layers with loop.autocast: no and an editor in half precision: what is trained is "
                "float32, and the layers around it are not. Set loop.autocast: bf16, or load the editor with "
                "?dtype=float32"
            )
        if self.policy.shard and self.loop.optimizer == "muon":
            raise ValueError("policy.shard: Muon needs whole matrices; set loop.optimizer: adamw")
        return self


def load_algorithm(recipe: Recipe) -> Algorithm:
    """The algorithm that a recipe names, with its settings; refused where the rollout cannot give what it needs."""
    name = recipe.algorithm["name"]
    module, _, kind = ALGORITHMS[name].partition(":")
    algorithm: Algorithm = read_config(getattr(import_module(module), kind), recipe.algorithm, "algorithm")
    if algorithm.needs.trajectory and not recipe.rollout.window:
        raise ConfigError(
            f"rollout.window: {name} learns from the noisy steps of sampling, and there are none with 0; set 1 or more"
        )
    return algorithm


def _half(editor: str) -> bool:
    """Whether the spec of an editor asks for weights of half precision."""
    return parse_qs(editor.partition("?")[2]).get("dtype", ["float32"])[-1] != "float32"
