"""What a loss is taken on, made from an iteration's samples as the algorithm declares.

- `Replays`: each step of the window again, under the present weights (`Step`).
- `Noised`: each clean sample, noised anew to some of the sampler's own levels and predicted again (`Denoise`).

The new noise belongs to (seed, iteration, task, member, number of the level) alone, so that gradients depend neither on
the micro-batch nor on the number of processes. A sample's levels are drawn without repetition, as far as there are
enough; x = (1 - t) x0 + t noise, as everywhere in this package, whatever the editor's network was trained on.
"""

__all__ = ["Examples", "Noised", "Replays", "draw", "examples"]

import hashlib
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.advantage import Advantages
from editing.algorithms.algorithm import Denoise, Needs, Step
from editing.collect import Batch
from editing.editors.editor import Condition, Editor, seeded_noise
from editing.precision import Precision
from editing.rollout import replay
from editing.transition import velocity_gain
from editing.weights import Policies


class Examples(Protocol):
    """Examples of an iteration: `count` of each sample."""

    def count(self, batch: Batch) -> int: ...

    def begin_update(self) -> None:
        """Called before the first example of each optimiser step."""
        ...

    def example(self, batch: Batch, signal: Advantages, rows: Tensor, index: int, iteration: int) -> Any:
        """The examples number `index` of the samples `rows`, as the algorithm's loss takes them."""
        ...


class Replays:
    """Steps of the trajectories."""

    def __init__(self, editor: Editor, policies: Policies, needs: Needs, precision: Precision) -> None:
        self.editor, self.policies, self.needs, self.precision = editor, policies, needs, precision

    def count(self, batch: Batch) -> int:
        return len(batch.trajectory.window)

    def begin_update(self) -> None:
        pass

    def example(self, batch: Batch, signal: Advantages, rows: Tensor, index: int, iteration: int) -> Step:
        trajectory, condition = batch.trajectory.select(rows), batch.condition.select(rows)
        device = trajectory.latents.device
        reference = None
        if self.needs.reference:
            with self.policies.use("start"), torch.no_grad(), self.precision.forward():
                reference = replay(self.editor, condition, trajectory, index).mean
        with self.precision.forward():
            moved = replay(self.editor, condition, trajectory, index)
        step = trajectory.window[index]
        return Step(
            logp=moved.logp,
            old_logp=trajectory.logp[index],
            mean=moved.mean,
            std=moved.std,
            reference_mean=reference,
            advantages=signal.values[rows].to(device),
            weights=signal.weights[rows].to(device),
            old_mean=trajectory.mean[index],
            gain=float(velocity_gain(trajectory.rules[step], *trajectory.sigmas[step : step + 2].float().cpu())),
        )


class Noised:
    """Clean samples with new noise."""

    def __init__(self, editor: Editor, policies: Policies, needs: Needs, precision: Precision, seed: int) -> None:
        self.editor, self.policies, self.needs, self.precision = editor, policies, needs, precision
        self.seed = seed
        self.same = False
        """Whether the old policy is the present one, so that one prediction serves both."""

    def count(self, batch: Batch) -> int:
        return self.needs.levels

    def begin_update(self) -> None:
        self.same = self.needs.old is not None and self.policies.distance("old") == 0

    def example(self, batch: Batch, signal: Advantages, rows: Tensor, index: int, iteration: int) -> Denoise:
        condition, x0 = batch.condition.select(rows), batch.trajectory.final[rows]
        sigmas = batch.trajectory.sigmas[:-1][: self.needs.window]
        t, noise = draw(batch, rows, sigmas, "noised", self.seed, iteration, index)
        levels = t.view(-1, *(1,) * (x0.ndim - 1))
        x = (1 - levels) * x0 + levels * noise
        old = reference = None
        if self.needs.reference:
            reference = self._as("start", x, t, condition)
        if self.needs.old and not self.same:
            old = self._as("old", x, t, condition)
        with self.precision.forward():
            predicted = self.editor.predict(x, t, condition).x0
        device = x.device
        return Denoise(
            x0=x0,
            predicted=predicted,
            old=predicted.detach() if self.needs.old and self.same else old,
            reference=reference,
            t=levels,
            advantages=signal.values[rows].to(device),
            weights=signal.weights[rows].to(device),
            ranks=signal.ranks[rows].to(device),
            error=self.editor.predicts,
        )

    def _as(self, policy: str, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with self.policies.use(policy), torch.no_grad(), self.precision.forward():
            return self.editor.predict(x, t, condition).x0


def draw(
    batch: Batch, rows: Tensor, levels: Tensor, kind: str, seed: int, iteration: int, index: int = 0
) -> tuple[Tensor, Tensor]:
    """One of the noise `levels` [B] and new noise [B, tokens, channels] for each of the samples `rows`. Each `kind` has
    noise of its own; other indices of a sample have other noise and, as far as there are enough, other levels.
    """
    final = batch.trajectory.final
    members = len(batch.edits) // len(batch.tasks)
    drawn, noise = [], []
    for row in rows.tolist():
        name = (kind, seed, iteration, batch.tasks[row // members].id, row % members)
        order = torch.randperm(len(levels), generator=_generator(name))
        drawn.append(levels[order[index % len(levels)]])
        noise.append(seeded_noise(tuple(final.shape[1:]), *name, index))
    return torch.stack(drawn).to(final.device), torch.stack(noise).to(final.device)


def examples(editor: Editor, policies: Policies, needs: Needs, precision: Precision, seed: int) -> Examples:
    """Those that an algorithm needs."""
    if needs.trajectory:
        return Replays(editor, policies, needs, precision)
    return Noised(editor, policies, needs, precision, seed)


def _generator(names: tuple[object, ...]) -> torch.Generator:
    digest = hashlib.sha256("\x1f".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
