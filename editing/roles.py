"""Three measures, three roles: what is trained on, what is watched, what is reported.

`reward` is trained on; `monitor` draws the curve beside it; `final` is run once, at the end. An editor that learned
from a measure can no longer be judged by it, so no measure may have two roles, alone or inside a combination.
"""

__all__ = ["Roles", "RolesConfig", "load_roles", "measures"]

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mmreward.config import ConfigError, read_yaml
from mmreward.reward import RECIPES, Reward, load_reward

Spec = str | dict[str, Any]


class RolesConfig(BaseModel, extra="forbid", frozen=True):
    """A reward (name, YAML path or mapping) for each role. `final` may be left out where someone else reports."""

    reward: Spec
    monitor: Spec
    final: Spec | None = None


@dataclass(frozen=True)
class Roles:
    reward: Reward
    monitor: Reward
    final: Reward | None


def measures(spec: Spec) -> frozenset[str]:
    """The single rewards that `spec` is made of, without their options: "recommended" -> clip:tiny,
    pixels, vlm:tiny.
    """
    if isinstance(spec, Mapping):
        members = spec.get("members") or {}
        if not isinstance(members, Mapping):
            return frozenset()
        inner = [m["reward"] if isinstance(m, Mapping) and "reward" in m else m for m in members.values()]
        return frozenset().union(*(measures(member) for member in inner))
    text = str(spec).strip()
    if text in RECIPES:
        return measures(read_yaml(RECIPES[text]))
    if text.endswith((".yaml", ".yml")):
        return measures(read_yaml(Path(text)))
    return frozenset({text.partition("?")[0]})


def check_roles(config: RolesConfig) -> None:
    """Raise `ConfigError` where a measure has two roles."""
    roles = {name: measures(spec) for name, spec in config if spec is not None}
    names = list(roles)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if both := sorted(roles[first] & roles[second]):
                raise ConfigError(
                    f"roles: {', '.join(both)} is both {first} and {second}; what an editor is trained on or chosen by "
                    f"cannot also judge it. Give {second} another measure"
                )


def load_roles(config: RolesConfig) -> Roles:
    """The three rewards; refuses a measure with two roles before anything is loaded."""
    check_roles(config)
    final = None if config.final is None else load_reward(config.final)
    return Roles(load_reward(config.reward), load_reward(config.monitor), final)
