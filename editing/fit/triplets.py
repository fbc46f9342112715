"""Triplets (source, instruction, target) of the shapes world as latents and token ids, encoded once and kept on disk.

A share of the targets is flawed, so that the editor learns to fail in varied ways: reinforcement then has modes to
choose between.
"""

__all__ = ["KINDS", "Triplets", "encoded_once", "make_triplets", "pixels", "world_triplets"]

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmreward.atomic import save_file_atomic
from mmreward.config import ConfigError
from mmreward.shapes import Task, World

if TYPE_CHECKING:
    from editing.editors.kontext import KontextEditor

KINDS = ("recolour", "remove", "add", "move", "background")
"""Kinds of instruction that the bundled editors know."""
_CHUNK = 256
Chunk = TypeVar("Chunk")


@dataclass(frozen=True)
class Triplets:
    """N triplets. Latents are packed, bfloat16 [N, tokens, channels]; ids int16 [N, max_tokens]."""

    source: Tensor
    target: Tensor
    t5_ids: Tensor
    clip_ids: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        """Some triplets, float32 latents and int64 ids."""
        return {
            "source": self.source[rows].float(),
            "target": self.target[rows].float(),
            "t5_ids": self.t5_ids[rows].long(),
            "clip_ids": self.clip_ids[rows].long(),
        }


def world_triplets(world: World, count: int, flawed: float) -> Iterator[tuple[list[Task], list[np.ndarray]]]:
    """The first `count` tasks of `world` in chunks, with their targets, a share `flawed` of which is flawed."""
    for start in range(0, count, _CHUNK):
        tasks = [world.task(index) for index in range(start, min(start + _CHUNK, count))]
        wrong = np.random.default_rng([world.seed, start]).random(len(tasks)) < flawed
        targets = [
            world.flawed_target(task).image if bad else task.target_image
            for task, bad in zip(tasks, wrong, strict=True)
        ]
        yield tasks, targets


def encoded_once(
    file: Path,
    chunks: Iterable[Chunk],
    encode: Callable[[Chunk], Mapping[str, Tensor]],
    count: int,
    made_of: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """The tensors that `encode` makes of each chunk, joined by name along the rows; kept in `file` and read from it the
    next time. A file that was made of something else is refused. `count` rows are about `count` / 256 chunks.
    """
    made = {name: json.dumps(value, sort_keys=True) for name, value in (made_of or {}).items()}
    if file.is_file():
        _check(file, made)
        return load_file(file)
    total = -(-count // _CHUNK)
    parts = [encode(chunk) for chunk in track(chunks, total=total, description="encoding triplets")]
    names = dict.fromkeys(name for part in parts for name in part)
    tensors = {name: torch.cat([part[name] for part in parts if name in part]) for name in names}
    save_file_atomic(file, lambda partial: save_file(tensors, partial, metadata=made))
    return tensors


def _check(file: Path, made: Mapping[str, str]) -> None:
    with safe_open(file, framework="pt") as opened:
        found = opened.metadata() or {}
    other = [name for name, value in made.items() if found.get(name) != value]
    if other:
        raise ConfigError(
            f"{file} was encoded with {other[0]} {found.get(other[0])}, and this recipe has {made[other[0]]}; "
            "remove the file, or choose another folder"
        )


def make_triplets(editor: "KontextEditor", world: World, count: int, flawed: float, file: Path) -> Triplets:
    """The first `count` tasks of `world`, a share `flawed` of them with a flawed target; read from `file` if there."""

    def encode(chunk: tuple[list[Task], list[np.ndarray]]) -> dict[str, Tensor]:
        tasks, targets = chunk
        images = {"source": [task.source_image for task in tasks], "target": targets}
        latents = {name: encode_images(editor, some).to(torch.bfloat16) for name, some in images.items()}
        return {**latents, **tokenise(editor, [task.instruction for task in tasks])}

    return Triplets(**encoded_once(file, world_triplets(world, count, flawed), encode, count))


def pixels(images: Sequence[np.ndarray]) -> Tensor:
    """uint8 [H, W, 3] each to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode_images(editor: "KontextEditor", images: Sequence[np.ndarray]) -> Tensor:
    """Packed latents of images of the editor's own size, as its `encode` makes them."""
    seen = pixels(images)
    with torch.autocast(seen.device.type, dtype=torch.bfloat16):
        return editor.pack(editor.pipeline._encode_vae_image(seen, generator=None).float().contiguous())


def tokenise(editor: "KontextEditor", instructions: list[str]) -> dict[str, Tensor]:
    """Token ids as the pipeline makes them."""
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    t5 = editor.pipeline.tokenizer_2(instructions, max_length=editor.max_tokens, **options).input_ids
    clip = editor.pipeline.tokenizer(instructions, max_length=editor.pipeline.tokenizer_max_length, **options).input_ids
    return {"t5_ids": t5.to(torch.int16), "clip_ids": clip.to(torch.int16)}
