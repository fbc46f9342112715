"""Triplets (source, instruction, target) with scores and feedback, encoded once and kept on disk.

They come from a table that `mmreward filter --all` wrote, or from the shapes world with a share of flawed targets,
which a reward scores then. A triplet without `overall` (the judge failed) stays, and no method ever draws it; one whose
dimension is missing has that score not said.
"""

__all__ = ["Bucket", "ScoredTriplets", "Triplet", "TripletConfig", "scored_triplets"]

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, Field
from torch import Tensor

from editing.editors.editor import Condition
from editing.editors.pipeline import PipelineEditor
from editing.fit.conditioned_family import Family
from editing.fit.triplets import KINDS, encoded_once, world_triplets
from mmreward.batch.inputs import read_rows
from mmreward.batch.rows import Row, Rows
from mmreward.config import ConfigError
from mmreward.edit import Edit, ImageError, open_image
from mmreward.reward import Reward, load_reward
from mmreward.score import DIMENSIONS
from mmreward.shapes import Task, World

_CHUNK = 256


class TripletConfig(BaseModel, extra="forbid", frozen=True):
    """Where triplets and their scores come from: a table, or the shapes world and a reward."""

    file: Path | None = None
    """A table with the columns instruction, source, target (or edited), overall, those of `scores`, and rationale (the
    feedback) where there is any. The settings below `scores` are the shapes world's."""
    map: dict[str, str] = Field(default_factory=dict)
    """Names of columns in `file` that differ: our name -> its name."""
    scores: tuple[str, ...] = Field(default=DIMENSIONS, min_length=1)
    """The scores that an editor is told, besides which `overall` chooses and weighs triplets."""
    reward: str | dict[str, Any] = "vlm:tiny"
    kinds: tuple[str, ...] = KINDS
    triplets: int = Field(default=20_000, ge=1)
    flawed: float = Field(default=0.33, ge=0, le=1)
    """Share of flawed targets."""
    seed: int = 0

    def made_of(self) -> dict[str, Any]:
        """What decides the encoded triplets, for their file."""
        found = self.model_dump(mode="json")
        if self.file is not None and self.file.is_file():
            with self.file.open("rb") as stream:
                found["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
        return found


@dataclass(frozen=True)
class Triplet:
    """`scores` in the order of `TripletConfig.scores`; NaN where missing."""

    source: Image.Image
    instruction: str
    target: Image.Image
    overall: float
    scores: tuple[float, ...]
    feedback: str | None = None


@dataclass(frozen=True)
class Bucket:
    """N triplets of one resolution."""

    condition: Condition
    """Of the source and the instruction, for one pass of the network (no guidance but an embedded one)."""
    target: Tensor
    """Latents [N, tokens, channels]."""
    overall: Tensor
    """[N]."""
    scores: Tensor
    """[N, D]."""
    feedback: Tensor | None
    """States of the texts that there are, [M, L, width]."""
    feedback_row: Tensor
    """Which of them belongs to a triplet, int64 [N]; -1: none."""


@dataclass(frozen=True)
class ScoredTriplets:
    buckets: tuple[Bucket, ...]
    empty: Mapping[str, Tensor]
    """What stands in the condition for an empty instruction, [1, ...] each; nothing for editors that are not guided by
    leaving it out."""

    @property
    def overall(self) -> Tensor:
        """[N] over all buckets."""
        return torch.cat([bucket.overall for bucket in self.buckets])

    @property
    def scores(self) -> Tensor:
        """[N, D] over all buckets."""
        return torch.cat([bucket.scores for bucket in self.buckets])


def scored_triplets(editor: PipelineEditor, family: Family, config: TripletConfig, file: Path) -> ScoredTriplets:
    """The triplets of `config`, encoded by `editor`; read from `file` if they are there."""
    count, chunks = _chunks(config)
    made_of = {"data": config.made_of(), "sizes": [editor.max_area, *_lengths(editor)]}
    tensors = encoded_once(file, chunks(), partial(_encode, editor, family), count, made_of)
    editor.forget()
    sizes = sorted({name.partition("/")[0] for name in tensors if not name.startswith("empty/")})
    empty = {name.removeprefix("empty/"): tensor[:1] for name, tensor in tensors.items() if name.startswith("empty/")}
    return ScoredTriplets(tuple(_bucket(tensors, size) for size in sizes), empty)


def _lengths(editor: PipelineEditor) -> list[int]:
    return [editor.max_tokens] if hasattr(editor, "max_tokens") else []


def _chunks(config: TripletConfig) -> tuple[int, Callable[[], Iterator[list[Triplet]]]]:
    """How many triplets, and how to go through them; what cannot be had is refused here."""
    if config.file is not None:
        rows = read_rows(
            config.file, config.map, needs=("instruction", "source", "edited"), instead={"edited": "target"}
        )
        for name in ("overall", *config.scores):
            if name not in rows.columns:
                raise ConfigError(
                    f"{config.file} has no column {name!r} (it has: {', '.join(rows.columns)}); write the table with "
                    f"`mmreward filter TRIPLETS --all --out {config.file}`, or change data.scores"
                )
        return len(rows), partial(_of_table, rows, config)
    reward = load_reward(config.reward)
    missing = [name for name in config.scores if name not in reward.dims]
    if missing:
        raise ConfigError(
            f"data.scores: the reward {reward.name} does not give {missing[0]!r}; it gives: {', '.join(reward.dims)}"
        )
    return config.triplets, partial(_of_world, reward, config)


def _of_table(rows: Rows, config: TripletConfig) -> Iterator[list[Triplet]]:
    chunk: list[Triplet] = []
    for row in rows:
        overall, *scores = (_number(row, name, rows.where) for name in ("overall", *config.scores))
        try:
            if row.error:
                raise ImageError(row.error)
            source, target = (open_image(row.images.get(name), name) for name in ("source", "edited"))
        except ImageError as error:
            if math.isnan(overall):
                continue
            raise ConfigError(f"{rows.where}: row {row.id}: {error}") from None
        feedback = row.meta.get("rationale")
        chunk.append(Triplet(source, row.instruction, target, overall, tuple(scores), feedback or None))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _number(row: Row, name: str, where: Path) -> float:
    value = row.meta.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"{where}: row {row.id}: {name} should be a number from 0 to 1 or empty, got {value!r}")
    return float(value)


def _of_world(reward: Reward, config: TripletConfig) -> Iterator[list[Triplet]]:
    world = World("train", seed=config.seed, kinds=config.kinds)
    for tasks, targets in world_triplets(world, config.triplets, config.flawed):
        edits = [_edit(task, target) for task, target in zip(tasks, targets, strict=True)]
        chunk = []
        for edit, score in zip(edits, reward.score(edits), strict=True):
            source, target = open_image(edit.source, "source"), open_image(edit.edited, "edited")
            scores = tuple(score.dims.get(name, math.nan) for name in config.scores)
            chunk.append(Triplet(source, edit.instruction, target, score.overall, scores, score.rationale))
        yield chunk


def _edit(task: Task, target: np.ndarray) -> Edit:
    return Edit(
        task.instruction,
        Image.fromarray(task.source_image),
        Image.fromarray(target),
        source_caption=task.source_caption,
        target_caption=task.target_caption,
        id=task.id,
    )


@torch.no_grad()
def _encode(editor: PipelineEditor, family: Family, chunk: Sequence[Triplet]) -> dict[str, Tensor]:
    """Tensors by "HEIGHTxWIDTH/name", and the empty instruction's by "empty/name"."""
    conditions = editor.encode([triplet.source for triplet in chunk], [triplet.instruction for triplet in chunk])
    found: dict[str, Tensor] = {}
    for size in dict.fromkeys(condition.size for condition in conditions):
        rows = [row for row, condition in enumerate(conditions) if condition.size == size]
        own = [chunk[row] for row in rows]
        condition = editor.collate([conditions[row] for row in rows])
        one_pass, empty = _one_pass(condition.tensors)
        found |= {
            f"empty/{name}": _stored(tensor[:1]) for name, tensor in empty.items() if f"empty/{name}" not in found
        }
        tensors = {f"condition/{name}": _stored(tensor) for name, tensor in one_pass.items()}
        tensors["target"] = _stored(family.latents(_pixels(editor, own, size)))
        tensors["overall"] = torch.tensor([triplet.overall for triplet in own])
        tensors["scores"] = torch.tensor([triplet.scores for triplet in own])
        tensors["has_feedback"] = torch.tensor([triplet.feedback is not None for triplet in own])
        texts = [(triplet.source, triplet.feedback) for triplet in own if triplet.feedback is not None]
        if texts:
            read = editor.encode([source for source, _ in texts], [text for _, text in texts])
            tensors["feedback"] = _stored(torch.cat([condition.tensors["text"] for condition in read]))
        found |= {f"{size[0]}x{size[1]}/{name}": tensor for name, tensor in tensors.items()}
    return found


def _one_pass(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A condition's tensors without those of guidance by leaving out, and those of the empty instruction."""
    empty = {name.removeprefix("no_"): tensor for name, tensor in tensors.items() if name.startswith("no_")}
    left_out = {f"no_{name}" for name in empty} | ({"guidance"} if empty else set())
    return {name: tensor for name, tensor in tensors.items() if name not in left_out}, empty


def _pixels(editor: PipelineEditor, triplets: Sequence[Triplet], size: tuple[int, int]) -> Tensor:
    for triplet in triplets:
        if editor.edit_size(*triplet.target.size) != size:
            raise ConfigError(
                f"the target of {triplet.instruction!r} has {triplet.target.size} pixels, another shape than its "
                f"source's {triplet.source.size}; leave such triplets out"
            )
    return torch.cat([editor._pixels(triplet.target, size) for triplet in triplets])


def _stored(tensor: Tensor) -> Tensor:
    """On the CPU; states and latents in bfloat16."""
    return tensor.to("cpu", torch.bfloat16 if tensor.ndim > 2 else torch.float32).contiguous()


def _bucket(tensors: Mapping[str, Tensor], size: str) -> Bucket:
    own = {name.partition("/")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{size}/")}
    height, width = map(int, size.split("x"))
    _, tokens, channels = own["target"].shape
    given = {name.removeprefix("condition/"): own[name] for name in own if name.startswith("condition/")}
    has = own["has_feedback"].bool()
    return Bucket(
        condition=Condition(given, (tokens, channels), (height, width)),
        target=own["target"],
        overall=own["overall"],
        scores=own["scores"],
        feedback=own.get("feedback"),
        feedback_row=torch.where(has, has.cumsum(0) - 1, -1),
    )
