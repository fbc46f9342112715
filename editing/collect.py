"""One iteration's samples: groups of edits with their trajectories, and the time that each part of it took."""

__all__ = ["Batch", "Clock", "OnPiece", "collect", "generator", "pieces", "places"]

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from editing.data import Task
from editing.editors.editor import Condition, Editor, to_images
from editing.processes import Processes
from editing.recipe import Recipe, RolloutConfig
from editing.rollout import Trajectory, rollout, rules
from editing.transition import rule_from
from mmreward.config import ConfigError
from mmreward.edit import Edit

OnPiece = Callable[[list[Edit]], None]
"""Called with the edits of each piece of an iteration as soon as they are there."""

_PIECES = 4
"""At most: in the first one the reward is idle, and in the last one the editor."""


class Clock:
    """Seconds per named part of an iteration; the rest is "other"."""

    def start(self) -> None:
        self._began, self._parts = time.monotonic(), Counter[str]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._parts[name] += time.monotonic() - began  # type: ignore[assignment]

    def parts(self) -> dict[str, float]:
        other = time.monotonic() - self._began - sum(self._parts.values())
        return {name: round(seconds, 3) for name, seconds in {**self._parts, "other": other}.items()}


@dataclass(frozen=True)
class Batch:
    """The samples of one iteration, or this process's share: N = groups x members, rows of a group together."""

    tasks: list[Task]
    condition: Condition
    trajectory: Trajectory
    images: list[Image.Image]
    edits: list[Edit]
    first: int = 0
    """The number of the first row among those of all processes."""


def collect(
    editor: Editor,
    tasks: Sequence[Task],
    config: RolloutConfig,
    window: range,
    noise: str,
    context: Callable[[], AbstractContextManager[Any]],
    clock: Clock,
    on_piece: OnPiece | None = None,
    first: int = 0,
) -> Batch:
    """Sample `config.members` edits of every task: a function of the present weights and of the name `noise`. The steps
    of `window` have noise and are kept.

    All of a sample's noise, at the start and in the steps, depends on `noise`, its task and its number in the group.
    `context` makes what the forward passes run under (autocast). With `on_piece` the samples are finished piece by
    piece, in the same batches.
    """
    with clock.part("encode"):
        encoded = editor.encode([task.source for task in tasks], [task.instruction for task in tasks])
        condition = editor.collate(encoded).repeat(config.members)
    shape = condition.latent_shape
    names = [(f"train/{noise}/{task.id}", member) for task in tasks for member in range(config.members)]
    sampled: list[Trajectory] = []
    images: list[Image.Image] = []
    edits: list[Edit] = []
    with clock.part("sample"):
        shared = config.start == "shared"
        x = torch.stack([editor.prior(name, 0 if shared else member, shape) for name, member in names])
        noises = [generator(f"{name}/{member}", x.device) for name, member in names]
        sigmas = editor.schedule(config.steps, shape)
        per_step = rules(rule_from(config.rule, config.eta), config.steps, window)
    for piece in pieces(len(names), config) if on_piece else [range(len(names))]:
        batches = [slice(start, min(start + config.batch, piece.stop)) for start in piece[:: config.batch]]
        with clock.part("sample"):
            for rows in batches:
                with context():
                    part = condition.select(rows)
                    sampled.append(rollout(editor, part, x[rows], sigmas, per_step, window, noises[rows]))
        with clock.part("decode"), torch.no_grad():
            for rows, trajectory in zip(batches, sampled[-len(batches) :], strict=True):
                with context():
                    images += to_images(editor.decode(trajectory.final, condition.select(rows)))
        edits += [tasks[row // config.members].edit(images[row]) for row in piece]
        if on_piece:
            on_piece(edits[piece.start : piece.stop])
    return Batch(list(tasks), condition, _join(sampled), images, edits, first)


def pieces(count: int, config: RolloutConfig) -> list[range]:
    """`count` samples in up to four pieces of whole groups, none of which divides a batch."""
    least = math.lcm(config.batch, config.members)
    size = least * math.ceil(math.ceil(count / least) / _PIECES)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def generator(name: str, device: torch.device) -> torch.Generator:
    """The noise that belongs to `name`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 2**63
    return torch.Generator(device).manual_seed(seed)


def _join(pieces: list[Trajectory]) -> Trajectory:
    if len(pieces) == 1:
        return pieces[0]
    return replace(
        pieces[0],
        final=torch.cat([piece.final for piece in pieces]),
        latents=torch.cat([piece.latents for piece in pieces], dim=1),
        prev=torch.cat([piece.prev for piece in pieces], dim=1),
        mean=torch.cat([piece.mean for piece in pieces], dim=1),
        logp=torch.cat([piece.logp for piece in pieces], dim=1),
    )


def places(recipe: Recipe, processes: Processes) -> range:
    """Which of an iteration's groups are this process's; refuses what cannot be dealt out."""
    groups, size, config = recipe.rollout.groups, processes.size, recipe.rollout
    if groups < size or (recipe.policy.shard and groups % size):
        least = f"a multiple of {size}" if recipe.policy.shard else f"at least {size}"
        reason = "with policy.shard all must have as many" if groups >= size else "a group is not divided"
        raise ConfigError(f"rollout.groups: {groups} for {size} processes; set {least} ({reason})")
    samples = (groups // size) * config.members
    if recipe.loop.overlap and len(pieces(samples, config)) < 2:
        raise ConfigError(
            f"loop.overlap: a process has {samples} samples of an iteration, and whole groups of {config.members} in "
            f"batches of {config.batch} make one piece of them: lower rollout.batch to at most {samples // 2}, or set "
            "loop.overlap: false"
        )
    return processes.share(groups)
