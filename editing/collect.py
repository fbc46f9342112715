"""One iteration's samples: groups of edits with their trajectories, and the time that each part of it took."""

__all__ = ["Batch", "Clock", "Made", "OnPiece", "collect", "generator", "pieces", "places"]

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from editing.data import Task
from editing.editors.editor import Condition, Editor, images_or_failures
from editing.precision import Precision
from editing.processes import Processes
from editing.recipe import Recipe, RolloutConfig
from editing.rollout import Trajectory, rollout, rules
from editing.transition import Rule, rule_from
from mmreward.config import ConfigError
from mmreward.edit import Edit
from mmreward.score import Failure

Made = Edit | Failure
"""An edit, or why the editor made none."""

OnPiece = Callable[[list[Made]], None]
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
    images: list[Image.Image | Failure]
    edits: list[Made]
    groups: list[str]
    """`Edit.group` of each sample."""
    first: int = 0
    """The number of the first row among those of all processes."""

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def made(self) -> list[int]:
        """The rows that have an edit."""
        return [row for row, edit in enumerate(self.edits) if isinstance(edit, Edit)]


def collect(
    editor: Editor,
    tasks: Sequence[Task],
    config: RolloutConfig,
    window: range,
    noise: str,
    precision: Precision,
    clock: Clock,
    on_piece: OnPiece | None = None,
    first_row: int = 0,
) -> Batch:
    """Sample `config.members` edits of every task: a function of the present weights and of the name `noise`. The steps
    of `window` have noise and are kept.

    All of a sample's noise, at the start and in the steps, depends on `noise`, its task and its number in the group.
    With `start: shared` the steps before the window are the same for all members of a group, and are taken once. With
    `on_piece` the samples are finished piece by piece, in the same batches. A sample whose image is not finite is a
    failure, and its latents become zeros, so that nothing else is touched by them.
    """
    with clock.part("encode"):
        encoded = editor.encode([task.source for task in tasks], [task.instruction for task in tasks])
        one_each = editor.collate(encoded)
        condition = one_each.repeat(config.members)
    shape, members = condition.latent_shape, config.members
    sampled: list[Trajectory] = []
    images: list[Image.Image | Failure] = []
    edits: list[Made] = []
    with clock.part("sample"):
        names = [f"train/{noise}/{task.id}" for task in tasks]
        sigmas = editor.schedule(config.steps, shape)
        per_step = rules(rule_from(config.rule, config.eta), config.steps, window)
        first = window.start if config.start == "shared" else 0
        if config.start == "shared":
            x = torch.stack([editor.prior(name, 0, shape) for name in names])
            x = _walk(editor, one_each, x, sigmas[: first + 1], per_step[:first], config.batch, precision)
            x = x.repeat_interleave(members, dim=0)
        else:
            x = torch.stack([editor.prior(name, member, shape) for name in names for member in range(members)])
        noises = [generator(f"{name}/{member}", x.device) for name in names for member in range(members)]
    for piece in pieces(len(x), config) if on_piece else [range(len(x))]:
        batches = [slice(start, min(start + config.batch, piece.stop)) for start in piece[:: config.batch]]
        with clock.part("sample"):
            for rows in batches:
                with precision.forward():
                    part = condition.select(rows)
                    sampled.append(rollout(editor, part, x[rows], sigmas, per_step, window, noises[rows], first))
        with clock.part("decode"), torch.no_grad():
            for rows, trajectory in zip(batches, sampled[-len(batches) :], strict=True):
                with precision.forward():
                    pixels = editor.decode(trajectory.final, condition.select(rows))
                images += images_or_failures(pixels)
        edits += [_made(tasks[row // members], images[row]) for row in piece]
        if on_piece:
            on_piece(edits[piece.start : piece.stop])
    groups = [group for task in tasks for group in [task.edit(task.source).group] * members]
    failed = torch.tensor([isinstance(image, Failure) for image in images], device=x.device)
    return Batch(list(tasks), condition, _zeroed(_join(sampled), failed), images, edits, groups, first_row)


def pieces(count: int, config: RolloutConfig) -> list[range]:
    """`count` samples in up to four pieces of whole groups, none of which divides a batch."""
    least = math.lcm(config.batch, config.members)
    size = least * math.ceil(math.ceil(count / least) / _PIECES)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def generator(name: str, device: torch.device) -> torch.Generator:
    """The noise that belongs to `name`."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 2**63
    return torch.Generator(device).manual_seed(seed)


def _walk(
    editor: Editor,
    condition: Condition,
    x: Tensor,
    sigmas: Tensor,
    per_step: Sequence[Rule],
    batch: int,
    precision: Precision,
) -> Tensor:
    """[B, tokens, channels], `x` after the steps `per_step`, none of which is kept."""
    if not per_step:
        return x
    found = []
    for rows in torch.arange(len(x)).split(batch):
        with precision.forward():
            found.append(rollout(editor, condition.select(rows), x[rows], sigmas, per_step).final)
    return torch.cat(found)


def _made(task: Task, image: Image.Image | Failure) -> Made:
    return image if isinstance(image, Failure) else task.edit(image)


def _zeroed(trajectory: Trajectory, failed: Tensor) -> Trajectory:
    """Without the numbers of the samples that `failed` [B]: a loss of weight 0 would still be NaN with them."""
    if not failed.any():
        return trajectory

    def zero(tensor: Tensor, dim: int) -> Tensor:
        return tensor.masked_fill(failed.view(*(1,) * dim, -1, *(1,) * (tensor.ndim - dim - 1)), 0)

    return replace(
        trajectory,
        final=zero(trajectory.final, 0),
        latents=zero(trajectory.latents, 1),
        prev=zero(trajectory.prev, 1),
        mean=zero(trajectory.mean, 1),
        logp=zero(trajectory.logp, 1),
    )


def _join(pieces: list[Trajectory]) -> Trajectory:
    """The samples of several batches as one."""
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
