"""Sampling: from starting noise to clean latents, keeping what training needs.

    window = range(0, 3)
    trajectory = rollout(editor, condition, x, sigmas, rules(CPS(0.8), steps=8, window=window), window)
    images = editor.decode(trajectory.final, condition)
    step = replay(editor, condition, trajectory, 0)  # with gradient
    ratio = (step.logp - trajectory.logp[0]).exp()

Only the latents of the window are kept (MixGRPO and Flow-GRPO-Fast: an SDE inside a window of steps, the ODE outside).
"""

__all__ = ["Trajectory", "replay", "rollout", "rules"]

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.editors.editor import Condition, Editor
from editing.transition import ODE, Rule, Transition, transition


@dataclass(frozen=True)
class Trajectory:
    """B samples of one sampling run. W = number of steps in the window."""

    final: Tensor
    """[B, tokens, channels], the clean latents, float32."""
    sigmas: Tensor
    """[steps + 1], the noise levels."""
    rules: tuple[Rule, ...]
    """One rule per step."""
    window: tuple[int, ...]
    """The steps that were kept, rising."""
    latents: Tensor
    """[W, B, tokens, channels], the sample before each step of the window."""
    prev: Tensor
    """[W, B, tokens, channels], the sample after it."""
    mean: Tensor
    """[W, B, tokens, channels], the mean that it was drawn around, float32."""
    logp: Tensor
    """[W, B], its log-density under the policy that sampled (mean over dimensions)."""

    def select(self, rows: Sequence[int] | slice | Tensor) -> "Trajectory":
        """Some of the B samples."""
        rows = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(list(rows), dtype=torch.long)
        return replace(
            self,
            final=self.final[rows],
            latents=self.latents[:, rows],
            prev=self.prev[:, rows],
            mean=self.mean[:, rows],
            logp=self.logp[:, rows],
        )


def rules(rule: Rule, steps: int, window: Iterable[int], outside: Rule | None = None) -> tuple[Rule, ...]:
    """One rule per step: `rule` in the window and `outside` (the ODE) elsewhere."""
    window = set(window)
    return tuple(rule if step in window else (outside or ODE()) for step in range(steps))


@torch.no_grad()
def rollout(
    editor: Editor,
    condition: Condition,
    x: Tensor,
    sigmas: Tensor,
    rule: Rule | Sequence[Rule],
    window: Iterable[int] = (),
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    first: int = 0,
) -> Trajectory:
    """Samples without gradient.

    Args:
        condition: a batch of B rows.
        x: starting noise [B, tokens, channels] (`editor.prior`), or the sample before the step `first`.
        sigmas: noise levels [steps + 1] (`editor.schedule`).
        rule: one for all steps, or one per step.
        window: the steps whose latents and log-densities are kept; each must have noise.
        generator: the noise of the steps; a sequence has one generator per sample.
        first: the step to begin with; those before it were taken already.
    """
    steps = len(sigmas) - 1
    per_step = tuple(rule) if isinstance(rule, Sequence) else (rule,) * steps
    kept = tuple(sorted(set(window)))
    _check(condition, x, sigmas, per_step, kept, first)

    levels = sigmas.tolist()
    before: list[Tensor] = []
    after: list[Tensor] = []
    means: list[Tensor] = []
    logp: list[Tensor] = []
    for step in range(first, steps):
        x0, eps = editor.predict(x, levels[step], condition)
        moved = transition(x, x0, eps, levels[step], levels[step + 1], per_step[step], generator=generator)
        if step in kept:
            before.append(x)
            after.append(moved.prev)
            means.append(moved.mean)
            logp.append(moved.logp)
        x = moved.prev
    empty = x.new_zeros((0, *x.shape))
    return Trajectory(
        final=x.float(),
        sigmas=sigmas,
        rules=per_step,
        window=kept,
        latents=torch.stack(before) if kept else empty,
        prev=torch.stack(after) if kept else empty,
        mean=torch.stack(means) if kept else empty.float(),
        logp=torch.stack(logp) if kept else x.new_zeros((0, len(x)), dtype=torch.float32),
    )


def replay(editor: Editor, condition: Condition, trajectory: Trajectory, index: int) -> Transition:
    """The step number `index` of the window again, under the editor's present weights and with gradient."""
    step = trajectory.window[index]
    t, t_next = trajectory.sigmas[step].item(), trajectory.sigmas[step + 1].item()
    x = trajectory.latents[index]
    x0, eps = editor.predict(x, t, condition)
    return transition(x, x0, eps, t, t_next, trajectory.rules[step], prev=trajectory.prev[index])


def _check(
    condition: Condition, x: Tensor, sigmas: Tensor, per_step: Sequence[Rule], window: Sequence[int], first: int
) -> None:
    steps = len(sigmas) - 1
    if len(condition) != len(x):
        raise ValueError(f"rollout: {len(condition)} conditions for {len(x)} samples; repeat the condition per member")
    if len(per_step) != steps:
        raise ValueError(f"rollout: {len(per_step)} rules for {steps} steps; give one rule, or one per step")
    for step in window:
        if not first <= step < steps:
            raise ValueError(
                f"rollout: step {step} of the window is not one of the steps that are taken ({first} to {steps - 1})"
            )
        std = per_step[step].coefficients(sigmas[step].float(), sigmas[step + 1].float()).std
        if not std > 0:
            raise ValueError(
                f"rollout: step {step} of the window has no noise under {per_step[step]}, so it has no log-density; "
                "leave it out of the window or choose a rule with noise there"
            )
