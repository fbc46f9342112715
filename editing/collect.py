"""One iteration's samples: groups of edits with their trajectories, and the time that each part of it took."""

__all__ = ["Batch", "Clock", "collect"]

import hashlib
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
from editing.recipe import RolloutConfig
from editing.rollout import Trajectory, rollout, rules
from editing.transition import rule_from
from mmreward.edit import Edit


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
    """The samples of one iteration: N = groups x members, rows of a group together."""

    tasks: list[Task]
    condition: Condition
    trajectory: Trajectory
    images: list[Image.Image]
    edits: list[Edit]


def collect(
    editor: Editor,
    tasks: Sequence[Task],
    config: RolloutConfig,
    window: range,
    noise: str,
    context: Callable[[], AbstractContextManager[Any]],
    clock: Clock,
) -> Batch:
    """Sample `config.members` edits of every task: a function of the present weights and of the name `noise`. The steps
    of `window` have noise and are kept.

    All of a sample's noise, at the start and in the steps, depends on `noise`, its task and its number in the group.
    `context` makes what the forward passes run under (autocast).
    """
    with clock.part("encode"):
        encoded = editor.encode([task.source for task in tasks], [task.instruction for task in tasks])
        condition = editor.collate(encoded).repeat(config.members)
    shape = condition.latent_shape
    names = [(f"train/{noise}/{task.id}", member) for task in tasks for member in range(config.members)]
    batches = [slice(start, start + config.batch) for start in range(0, len(names), config.batch)]
    pieces: list[Trajectory] = []
    images: list[Image.Image] = []
    with clock.part("sample"):
        x = torch.stack([editor.prior(name, member, shape) for name, member in names])
        generators = [_generator(f"{name}/{member}", x.device) for name, member in names]
        sigmas = editor.schedule(config.steps, shape)
        per_step = rules(rule_from(config.rule, config.eta), config.steps, window)
        for rows in batches:
            with context():
                part = condition.select(rows)
                pieces.append(rollout(editor, part, x[rows], sigmas, per_step, window, generators[rows]))
        trajectory = _join(pieces)
    with clock.part("decode"), torch.no_grad():
        for rows in batches:
            with context():
                images += to_images(editor.decode(trajectory.final[rows], condition.select(rows)))
    edits = [tasks[place // config.members].edit(image) for place, image in enumerate(images)]
    return Batch(list(tasks), condition, trajectory, images, edits)


def _generator(name: str, device: torch.device) -> torch.Generator:
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
