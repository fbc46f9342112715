"""Triplets (source, instruction, target) of the shapes world as latents and token ids, encoded once and kept on disk.

A share of the targets is flawed, so that the editor learns to fail in varied ways: reinforcement then has modes to
choose between.
"""

__all__ = ["Triplets", "make_triplets"]

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmreward.shapes import World

if TYPE_CHECKING:
    from editing.editors.kontext import KontextEditor


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


def make_triplets(
    editor: "KontextEditor", world: World, count: int, flawed: float, file: Path, chunk: int = 256
) -> Triplets:
    """The first `count` tasks of `world`, a share `flawed` of them with a flawed target; read from `file` if there."""
    if file.is_file():
        return Triplets(**load_file(file))
    parts: list[dict[str, Tensor]] = []
    for start in track(range(0, count, chunk), description="encoding triplets"):
        tasks = [world.task(index) for index in range(start, min(start + chunk, count))]
        rng = np.random.default_rng([world.seed, start])
        wrong = rng.random(len(tasks)) < flawed
        sources = [task.source_image for task in tasks]
        targets = [
            world.flawed_target(task).image if bad else task.target_image
            for task, bad in zip(tasks, wrong, strict=True)
        ]
        ids = tokenise(editor, [task.instruction for task in tasks])
        latents = {"source": encode_images(editor, sources), "target": encode_images(editor, targets)}
        parts.append({**{name: value.to(torch.bfloat16) for name, value in latents.items()}, **ids})
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(file)
    return Triplets(**tensors)


@torch.no_grad()
def encode_images(editor: "KontextEditor", images: Sequence[np.ndarray]) -> Tensor:
    """Packed latents of images of the editor's own size, as its `encode` makes them."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast(pixels.device.type, dtype=torch.bfloat16):
        return editor.pack(editor.pipeline._encode_vae_image(pixels, generator=None).float().contiguous())


def tokenise(editor: "KontextEditor", instructions: list[str]) -> dict[str, Tensor]:
    """Token ids as the pipeline makes them."""
    options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    t5 = editor.pipeline.tokenizer_2(instructions, max_length=editor.max_tokens, **options).input_ids
    clip = editor.pipeline.tokenizer(instructions, max_length=editor.pipeline.tokenizer_max_length, **options).input_ids
    return {"t5_ids": t5.to(torch.int16), "clip_ids": clip.to(torch.int16)}
