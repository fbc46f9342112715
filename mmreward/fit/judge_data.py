"""Training batches of the tiny judge: groups of candidate edits of one source, with dense labels from the world.

A batch is a function of its step. Labels are exact: the three dimensions from the oracle; for the dense training-only
heads what stands at each place of the source, the edited and the asked-for scene, and how far each place of an image is
from a clean rendering. Rows of real editor outputs (see `judge_extra`) take some of the groups where there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as images

from mmreward.fit.judge_asks import Frame
from mmreward.fit.judge_smear import smear
from mmreward.shapes import Scene, World, background, grid, read, render, truth
from mmreward.shapes.language import Change

__all__ = [
    "Batches",
    "Group",
    "JudgeBatch",
    "neighbours",
    "patches",
    "place_residuals",
    "smeared_groups",
    "world_group",
]


@dataclass(frozen=True)
class Group:
    """Candidates of one source: images uint8 [64, 64, 3], the scenes they show, labels float [K, 3]."""

    instruction: str
    source: Scene
    target: Scene
    changes: tuple[Change, ...]
    source_image: np.ndarray
    images: Sequence[np.ndarray]
    scenes: Sequence[Scene]
    labels: np.ndarray


@dataclass(frozen=True)
class JudgeBatch:
    """G groups of K candidates. Image 0 of a group is the source.

    text int64 [G, T], the instruction and what stands before it, padded on the left; text_mask bool [G, T];
    pixels float [G, 1 + K, 36, 363]; labels float [G, K, 3]; places int64 [G, 2 + K, 9, 3] and ground int64
    [G, 2 + K, 2] of the source, the K candidates and the asked-for scene; residual float [G, 1 + K, 9]; asked: how many
    of the questions about a candidate are put, the first ones (with 0 only the source is read with its instruction, and
    the images are only looked at); pairs int64 [G, M, 2], the candidates that are compared, or None; step: of training.
    """

    text: Tensor
    text_mask: Tensor
    pixels: Tensor
    labels: Tensor
    places: Tensor
    ground: Tensor
    residual: Tensor
    asked: int
    pairs: Tensor | None
    step: int


def world_group(world: World, index: int, count: int) -> Group:
    """The group of task `index` of a world with `count` candidates in random order."""
    task = world.task(index)
    rng = np.random.default_rng([7, world.seed, index])
    found = world.candidates(task, 9)
    chosen = [found[i] for i in rng.permutation(len(found))[:count]]
    labels = [(c.truth.following, c.truth.preservation, c.truth.quality) for c in chosen]
    return Group(
        task.instruction,
        task.source,
        task.target,
        task.changes,
        task.source_image,
        [c.image for c in chosen],
        [c.scene for c in chosen],
        np.asarray(labels, dtype=np.float32),
    )


def patches(pixels: np.ndarray | Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images uint8 [N, H, W, 3] as the processor of the tiny judge prepares them, one of the two equal frames:
    float [N, 36, 3 * 11 * 11], patches ordered by place.
    """
    stack = torch.as_tensor(pixels).permute(0, 3, 1, 2)
    resize = partial(images.resize, size=[66, 66], interpolation=images.InterpolationMode.BICUBIC, antialias=True)
    scaled = resize(stack).float().div_(255)
    scaled = (scaled - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    cut = scaled.reshape(len(stack), 3, 3, 2, 11, 3, 2, 11).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return cut.reshape(len(stack), 36, 363)


_EDGES = np.asarray([0, 21, 43])
_COUNTS = np.outer([21, 22, 21], [21, 22, 21]).ravel() * 3


def place_residuals(pixels: np.ndarray, scenes: Sequence[Scene]) -> np.ndarray:
    """Root mean square difference of images uint8 [N, 64, 64, 3] to renderings of their scenes, by place: [N, 9]."""
    clean = np.stack([render(scene) for scene in scenes])
    squared = np.square(pixels.astype(np.float32) - clean.astype(np.float32)).sum(-1)
    sums = np.add.reduceat(np.add.reduceat(squared, _EDGES, axis=1), _EDGES, axis=2)
    return np.sqrt(sums.reshape(len(pixels), 9) / _COUNTS) / 255


class Batches:
    """`at(step)` makes the batch of a step: `groups` groups of `candidates`.

    Steps before `look_steps` have `look_groups` groups of two candidates and put no questions. In later steps `extra`
    groups replace `share` of the groups, and `smeared` of the other candidates are smeared. Scores are asked for in all
    of them; where the frame has checks and comparisons as well, these take turns.
    """

    def __init__(
        self,
        world: World,
        tokenizer,
        image_processor,
        frame: Frame,
        *,
        groups: int,
        candidates: int,
        text_length: int,
        look_steps: int = 0,
        look_groups: int = 0,
        first: int = 0,
        extra: Sequence[Group] = (),
        share: float = 0.0,
        smeared: float = 0.0,
    ) -> None:
        self.world, self.tokenizer, self.frame = world, tokenizer, frame
        self.mean, self.std = image_processor.image_mean, image_processor.image_std
        self.groups, self.candidates, self.text_length = groups, candidates, text_length
        self.look_steps, self.look_groups, self.first = look_steps, look_groups, first
        self.extra, self.share = extra, share if extra else 0.0
        self.smeared = smeared

    def at(self, step: int) -> JudgeBatch:
        asked = step >= self.look_steps
        start = (
            self.first + min(step, self.look_steps) * self.look_groups + max(step - self.look_steps, 0) * self.groups
        )
        count, candidates = (self.groups, self.candidates) if asked else (self.look_groups, 2)
        rng = np.random.default_rng([11, self.world.seed, step])
        taken = int(rng.binomial(count, self.share)) if asked else 0
        found = [self.extra[i] for i in rng.integers(len(self.extra), size=taken)] if taken else []
        found = [_sized(group, candidates, rng) for group in found]
        fresh = [world_group(self.world, start + i, candidates) for i in range(count - taken)]
        if asked and self.smeared:
            fresh = smeared_groups(fresh, self.smeared, rng)
        if not asked:
            return self.batch(found + fresh, 0, step=step)
        comparing = bool(self.frame.pair_asks) and (step % 2 == 1 or not self.frame.checks)
        pairs = neighbours(len(found + fresh), candidates, rng) if comparing else None
        return self.batch(found + fresh, self.frame.scores if comparing else len(self.frame.asks), pairs, step)

    def batch(
        self, found: Sequence[Group], asked: int | None = None, pairs: Tensor | None = None, step: int = 0
    ) -> JudgeBatch:
        """Groups of equally many candidates as tensors; all questions about a candidate where `asked` is not given."""
        text, mask = self._text([group.instruction for group in found])
        stacks = np.stack([np.stack([group.source_image, *group.images]) for group in found])
        flat = stacks.reshape(-1, *stacks.shape[2:])
        residual = place_residuals(flat, [s for group in found for s in (group.source, *group.scenes)])
        scenes = [(group.source, *group.scenes, group.target) for group in found]
        return JudgeBatch(
            text,
            mask,
            patches(flat, self.mean, self.std).reshape(*stacks.shape[:2], 36, 363),
            torch.from_numpy(np.stack([group.labels for group in found])),
            torch.from_numpy(np.stack([[grid(scene) for scene in row] for row in scenes])),
            torch.tensor([[background(scene) for scene in row] for row in scenes]),
            torch.from_numpy(residual.reshape(stacks.shape[:2] + (9,)).astype(np.float32)),
            len(self.frame.asks) if asked is None else asked,
            pairs,
            step,
        )

    def _text(self, instructions: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = self.tokenizer(list(instructions), split_special_tokens=True)["input_ids"]
        ids = [[*self.frame.head, *one] for one in found]
        text = torch.full((len(ids), self.text_length), self.tokenizer.pad_token_id)
        mask = torch.zeros(text.shape, dtype=torch.bool)
        for row, one in enumerate(ids):
            if len(one) > self.text_length:
                raise ValueError(f"text of {len(one)} tokens, text_length is {self.text_length}: {instructions[row]!r}")
            text[row, self.text_length - len(one) :] = torch.tensor(one)
            mask[row, self.text_length - len(one) :] = True
        return text, mask


def neighbours(groups: int, candidates: int, rng: np.random.Generator) -> Tensor:
    """Each candidate with the next one of a random ring, in this order: int64 [G, K, 2]."""
    rings = np.stack([rng.permutation(candidates) for _ in range(groups)])
    return torch.from_numpy(np.stack([rings, np.roll(rings, -1, axis=1)], -1))


def smeared_groups(groups: Sequence[Group], share: float, rng: np.random.Generator) -> list[Group]:
    """Groups with `share` of their candidates smeared and labelled anew; what the oracle cannot read stays."""
    chosen = [
        (g, k) for g, group in enumerate(groups) for k in np.flatnonzero(rng.random(len(group.images)) < share).tolist()
    ]
    if not chosen:
        return list(groups)
    images = np.stack([groups[g].images[k] for g, k in chosen])
    mates = np.stack([groups[g].images[int(rng.integers(len(groups[g].images)))] for g, _ in chosen])
    changed = smear(images, mates, rng)
    parts = [(list(group.images), list(group.scenes), group.labels.copy()) for group in groups]
    for (g, k), image, reading in zip(chosen, changed, read(changed), strict=True):
        if reading.scene is not None:
            labels = truth(groups[g].source, groups[g].changes, reading)
            parts[g][0][k], parts[g][1][k] = image, reading.scene
            parts[g][2][k] = labels.following, labels.preservation, labels.quality
    return [
        replace(group, images=images, scenes=scenes, labels=labels)
        for group, (images, scenes, labels) in zip(groups, parts, strict=True)
    ]


def _sized(group: Group, count: int, rng: np.random.Generator) -> Group:
    """`count` candidates of a group, drawn without repetition where there are enough."""
    have = len(group.images)
    rows = rng.permutation(have)[:count] if have >= count else rng.integers(have, size=count)
    return Group(
        group.instruction,
        group.source,
        group.target,
        group.changes,
        group.source_image,
        [group.images[i] for i in rows],
        [group.scenes[i] for i in rows],
        group.labels[rows],
    )
