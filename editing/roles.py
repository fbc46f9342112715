"""Three measures, three roles: what is trained on, what is watched, what is reported.

`reward` is trained on; `monitor` draws the curve beside it; `final` is run once, at the end. An editor that learned
from a measure can no longer be judged by it, so no measure may have two roles, alone or inside a combination, under
any spelling. A reward and a monitor that only share a backbone or a teacher are warned of.
"""

__all__ = ["Measure", "Roles", "RolesConfig", "Spec", "check_roles", "in_role", "kinships", "load_roles", "measures"]

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from mmreward.assets import model_folder
from mmreward.combine import with_overall
from mmreward.config import ConfigError, read_yaml
from mmreward.judge.backends.openai_address import served_model
from mmreward.reward import RECIPES, Reward, load_reward, unknown

Spec = str | dict[str, Any]


class RolesConfig(BaseModel, extra="forbid", frozen=True):
    """A reward (name, YAML path or mapping) for each role. `final` may be left out where someone else reports."""

    reward: Spec
    monitor: Spec
    final: Spec | None = None
    by: dict[Literal["reward", "monitor", "final"], str] = Field(default_factory=dict)
    """For a role, the dimension that counts in place of the overall; for rewards that have no overall."""

    @property
    def specs(self) -> dict[str, Spec]:
        """Role -> reward, without the role that is left out."""
        named = {"reward": self.reward, "monitor": self.monitor, "final": self.final}
        return {role: spec for role, spec in named.items() if spec is not None}


@dataclass(frozen=True)
class Roles:
    reward: Reward
    monitor: Reward
    final: Reward | None


@dataclass(frozen=True)
class Measure:
    """One reward of a role: its spec without options, what it is called everywhere, and where its weights lie."""

    spec: str
    identity: str
    """A judge is its model, whoever serves it: vlm:M and openai:ADDRESS#M are both M."""
    address: str | None = None
    """Where its server is, if it has one."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What its model says of itself (`mmreward.json`), where that lies on this machine; else empty."""
        name, _, model = self.spec.partition(":")
        bundled = {"vlm": {"tiny": "tiny-judge"}, "clip": {"tiny": "tiny-clip"}}.get(name, {})
        folder = model_folder(bundled[model]) if model in bundled else Path(model) if model else None
        try:
            card = json.loads((folder / "mmreward.json").read_text()) if folder else {}
        except (OSError, ValueError):
            return {}
        return card if isinstance(card, dict) else {}


def measures(spec: Spec, inside: tuple[str, ...] = ()) -> frozenset[str]:
    """The single rewards that `spec` is made of, by their identity: "recommended" -> clip:tiny, pixels, vlm:tiny."""
    return frozenset(measure.identity for measure in _measures(spec, inside))


def _measures(spec: Spec, inside: tuple[str, ...] = ()) -> list[Measure]:
    if isinstance(spec, Mapping):
        members = spec.get("members") or {}
        if not isinstance(members, Mapping):
            return []
        inner = [m["reward"] if isinstance(m, Mapping) and "reward" in m else m for m in members.values()]
        return [measure for member in inner for measure in _measures(member, inside)]
    text = str(spec).strip()
    file = RECIPES.get(text) or (Path(text) if text.endswith((".yaml", ".yml")) and "?" not in text else None)
    if file is None:
        plain = text.partition("?")[0]
        server = served_model(text)
        return [Measure(plain, _identity(text), server.address if server else None)]
    if str(file) in inside:
        raise ConfigError(f"roles: {' contains '.join([*inside, str(file)])}: a combination cannot contain itself")
    return _measures(read_yaml(file), (*inside, str(file)))


_JUDGES = ("vlm", "openai", "editscore")
"""Rewards that are one judge where their models are one, in this process or behind a server."""


def _identity(spec: str) -> str:
    """Equal for spellings of one measure: a judge by the name of its model, which is also its folder; a server's only
    model by the server's address.
    """
    plain = spec.partition("?")[0]
    kind, _, model = plain.partition(":")
    if kind not in _JUDGES:
        return plain
    if server := served_model(spec):
        if not server.model:
            return f"openai:{server.address}"
        model = server.model
    folder = Path(model)
    named = str(folder.resolve()) if folder.is_dir() else model.rstrip("/").casefold()
    return f"vlm:{named}"


def _same(first: Measure, second: Measure) -> bool:
    """Whether two measures are one. A server without a named model may serve any that is asked of it by name."""
    if first.identity == second.identity:
        return True
    unnamed = any(measure.identity.startswith("openai:") for measure in (first, second))
    return unnamed and first.address is not None and first.address == second.address


def check_roles(config: RolesConfig) -> None:
    """Raise `ConfigError` where a measure has two roles, under whatever spelling."""
    roles = {role: _measures(spec) for role, spec in config.specs.items()}
    for first, second in combinations(roles, 2):
        both = {
            one.spec if one.spec == other.spec else f"{one.spec} (also {other.spec})": None
            for one in roles[first]
            for other in roles[second]
            if _same(one, other)
        }
        if both:
            raise ConfigError(
                f"roles: {', '.join(sorted(both))} is both {first} and {second}; what an editor is trained on or "
                f"chosen by cannot also judge it. Give {second} another measure"
            )


def kinships(config: RolesConfig) -> list[str]:
    """What reward and monitor have in common by their models' cards, as warnings: both may be fooled by the same thing,
    and the monitor stays silent then.
    """
    found = []
    for one in _measures(config.reward):
        for other in _measures(config.monitor):
            shared = _shared(one.card, other.card)
            if shared:
                found.append(
                    f"roles: {one.spec} (reward) and {other.spec} (monitor) share {' and '.join(shared)}: what fools "
                    "the one may fool the other, and the alarm would stay silent. A monitor of another kind, such as "
                    "the way to a known target (monitor: target), shares nothing"
                )
    return found


def _shared(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    families = set(_names(first.get("family"))) & set(_names(second.get("family")))
    teachers = set(_names(first.get("taught_by"))) & set(_names(second.get("taught_by")))
    shared = [f"the backbone {name}" for name in sorted(families)]
    return shared + [f"their teacher ({name})" for name in sorted(teachers)]


def _names(value: Any) -> list[str]:
    return [str(item) for item in (value if isinstance(value, list) else [value]) if item]


def load_roles(config: RolesConfig) -> Roles:
    """The three rewards; refuses a measure with two roles before anything is loaded, and a reward that has no overall
    and no dimension to take in its place.
    """
    check_roles(config)
    loaded = {role: in_role(config, role, load_reward(spec)) for role, spec in config.specs.items()}
    return Roles(loaded["reward"], loaded["monitor"], loaded.get("final"))


def in_role(config: RolesConfig, role: str, reward: Reward) -> Reward:
    """`reward` as it counts in its role: by its overall, or by the dimension that `config` names."""
    by = {str(name): dimension for name, dimension in config.by.items()}.get(role)
    if by is None and not reward.has_overall:
        raise ConfigError(
            f"roles.{role}: {reward.name} measures dimensions and makes no one number of them; say which one counts, "
            f"roles.by: {{{role}: DIMENSION}}; it measures: {', '.join(reward.dims)}"
        )
    if by is not None and by not in reward.dims:
        raise ConfigError(f"roles.by: {unknown(f'dimension of {reward.name}', by, reward.dims)}")
    return with_overall(reward, by)
