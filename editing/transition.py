"""One step of sampling, with its log-probability.

A step goes from noise level `t` to `t_next` < `t`. Every rule is a Gaussian whose mean is linear in what the model
knows, so one kernel serves them all:

    mean = c_x x + c_0 x0 + c_eps eps            prev = mean + std z,  z ~ N(0, I)

| rule       | mean                                            | std                                     |
|------------|-------------------------------------------------|-----------------------------------------|
| `ODE`      | x + v dt                                        | 0                                       |
| `FlowSDE`  | x (1 + g² dt / 2t) + v (1 + g² (1 - t) / 2t) dt | g sqrt(-dt), g = eta sqrt(t / (1 - t))  |
| `DanceSDE` | the same with g = eta                           | g sqrt(-dt)                             |
| `CPS`      | (1 - t') x0 + t' cos(eta pi / 2) eps            | t' sin(eta pi / 2)                      |
| `DDIM`     | (1 - t') x0 + sqrt(t'² - std²) eps              | eta t' sqrt(1 - (k'/k)²), k = t/(1 - t) |

with v = eps - x0, dt = t' - t. All samples lie on the straight line x = (1 - t) x0 + t eps; an editor whose network
knows variance-preserving coordinates, y = x / sqrt((1 - t)² + t²), converts inside. CPS and DDIM are the same rule,
"keep the coefficients of the next level", with two choices of the noise's share.

`logp` is the mean (not the sum) over all dimensions of a sample of the true log-density, constants and variance
included; so a ratio exp(logp - logp_old) is the D-th root of the true one, and clip ranges are small (1e-4).
All is computed in float32; a sampled `prev` is rounded to the storage dtype (the dtype of `x`) before its log-density
is taken, so that a replay of the stored latents finds the same number.

Sources: Flow-GRPO (Liu et al., 2025, https://arxiv.org/abs/2505.05470), DanceGRPO (Xue et al., 2025,
https://arxiv.org/abs/2505.07818), Coefficients-Preserving Sampling (Wang and Yu, 2025,
https://arxiv.org/abs/2509.05952), DDIM (Song et al., 2020, https://arxiv.org/abs/2010.02502).
"""

__all__ = [
    "CPS",
    "DDIM",
    "ODE",
    "DanceSDE",
    "FlowSDE",
    "Rule",
    "Transition",
    "rule_from",
    "transition",
    "velocity_gain",
]

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Coefficients:
    """mean = x·`x` + x0·`x0` + eps·`eps`; each a float32 tensor that broadcasts against the sample."""

    x: Tensor
    x0: Tensor
    eps: Tensor
    std: Tensor


class Rule(Protocol):
    """How a step moves from noise level t to t_next."""

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients: ...


def _reverse_sde(t: Tensor, t_next: Tensor, g: Tensor) -> Coefficients:
    dt = t_next - t
    towards = (1 + g.square() * (1 - t) / (2 * t)) * dt  # coefficient of v = eps - x0
    return Coefficients(x=1 + g.square() * dt / (2 * t), x0=-towards, eps=towards, std=g * (-dt).sqrt())


@dataclass(frozen=True)
class ODE:
    """The deterministic Euler step of a flow model; its std is 0."""

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients:
        return _reverse_sde(t, t_next, torch.zeros_like(t))


@dataclass(frozen=True)
class FlowSDE:
    """Flow-GRPO's SDE. At t = 1, where g is infinite, the denominator takes the next noise level."""

    eta: float = 0.7

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients:
        return _reverse_sde(t, t_next, self.eta * (t / (1 - torch.where(t == 1, t_next, t))).sqrt())


@dataclass(frozen=True)
class DanceSDE:
    """DanceGRPO's SDE: the same with a constant g = eta."""

    eta: float = 0.3

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients:
        return _reverse_sde(t, t_next, torch.full_like(t, self.eta))


@dataclass(frozen=True)
class CPS:
    """Coefficients-preserving sampling of a flow model: each level has exactly its own noise, the last none."""

    eta: float = 0.8

    def __post_init__(self) -> None:
        _check_share(
            "cps", self.eta, "all of a level's noise is new with 1; beyond it the predicted noise counts negative"
        )

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients:
        angle = self.eta * math.pi / 2
        return Coefficients(
            x=torch.zeros_like(t), x0=1 - t_next, eps=t_next * math.cos(angle), std=t_next * math.sin(angle)
        )


@dataclass(frozen=True)
class DDIM:
    """DDIM on the straight line, for flow and epsilon models alike; eta = 1 is the posterior of DDPM."""

    eta: float = 1.0

    def __post_init__(self) -> None:
        _check_share(
            "ddim", self.eta, "1 is the posterior of DDPM; beyond it a level gets more noise than belongs to it"
        )

    def coefficients(self, t: Tensor, t_next: Tensor) -> Coefficients:
        kept = (t_next * (1 - t) / (t * (1 - t_next))).square()  # (k'/k)², 0 from pure noise
        std = self.eta * t_next * (1 - kept).sqrt()
        eps = (t_next.square() - std.square()).clamp_min(0).sqrt()
        return Coefficients(x=torch.zeros_like(t), x0=1 - t_next, eps=eps, std=std)


def _check_share(rule: str, eta: float, why: str) -> None:
    if eta > 1:
        raise ValueError(
            f"eta {eta:g} with the rule {rule!r}: expected at most 1 ({why}). Published values above 1 are for 'flow'"
        )


def velocity_gain(rule: Rule, t: float | Tensor, t_next: float | Tensor) -> Tensor:
    """How far a step's mean moves against a change of the predicted velocity, -d mean / d v.

    With x0 = x - t v and eps = x + (1 - t) v it is t c_0 - (1 - t) c_eps: t - t_next for the ODE,
    (t - t_next) (1 + g² (1 - t) / 2t) for the SDEs, t (1 - t') - (1 - t) t' cos(eta pi / 2) for CPS.
    """
    level, level_next = (torch.as_tensor(value, dtype=torch.float32) for value in (t, t_next))
    c = rule.coefficients(level, level_next)
    return level * c.x0 - (1 - level) * c.eps


_RULES = {"flow": FlowSDE, "dance": DanceSDE, "cps": CPS, "ddim": DDIM, "ode": ODE}


def rule_from(name: str, eta: float | None = None) -> Rule:
    """The rule of a recipe: `name` is flow, dance, cps, ddim or ode; `eta` its strength of noise (not for ode)."""
    if name not in _RULES:
        raise ValueError(f"unknown sampling rule {name!r}; known: {', '.join(_RULES)}")
    if name == "ode" and eta:
        raise ValueError(f"the rule 'ode' has no noise, but eta is {eta}; leave eta out or choose another rule")
    return _RULES[name]() if eta is None or name == "ode" else _RULES[name](eta)


@dataclass(frozen=True)
class Transition:
    """A step: `prev` in the dtype of x, the others float32."""

    prev: Tensor
    """[B, ...] the sample at t_next."""
    mean: Tensor
    """[B, ...]"""
    std: Tensor
    """[B, 1, ...], 0 for a deterministic step."""
    logp: Tensor
    """[B], mean over dimensions; NaN where std is 0, for there is no density then."""


def transition(
    x: Tensor,
    x0: Tensor,
    eps: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    rule: Rule,
    prev: Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Transition:
    """One step of `rule` from noise level `t` to `t_next`.

    Args:
        x: the sample at t [B, ...]; its dtype is the storage dtype.
        x0, eps: what the model predicts from it, the clean sample and the noise [B, ...].
        t, t_next: noise levels in [0, 1], a number or one per sample [B]; t_next < t.
        prev: None samples; a tensor [B, ...] replays that outcome (gradients flow through x0 and eps).
        generator: for sampling; a sequence has one generator per sample, so that a sample does not depend on its batch.
            The ODE draws nothing.
    """
    shape = (-1,) + (1,) * (x.ndim - 1)
    level = torch.as_tensor(t, dtype=torch.float32, device=x.device).reshape(shape)
    level_next = torch.as_tensor(t_next, dtype=torch.float32, device=x.device).reshape(shape)
    c = rule.coefficients(level, level_next)
    mean = c.x * x.float() + c.x0 * x0.float() + c.eps * eps.float()
    std = c.std.expand(x.shape[0], *shape[1:])

    if prev is None:
        prev = (mean if isinstance(rule, ODE) else mean + std * _noise(x, generator)).to(x.dtype)
    density = -0.5 * ((prev.float() - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    logp = torch.where(std == 0, torch.nan, density).flatten(1).mean(1)
    return Transition(prev=prev, mean=mean, std=std, logp=logp)


def _noise(x: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        device = x.device if generator is None else generator.device
        return torch.randn(x.shape, generator=generator, device=device).to(x.device)
    if len(generator) != x.shape[0]:
        raise ValueError(f"transition: {len(generator)} generators for a batch of {x.shape[0]}; give one per sample")
    return torch.stack([torch.randn(x.shape[1:], generator=g, device=g.device) for g in generator]).to(x.device)
