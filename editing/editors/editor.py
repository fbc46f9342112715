"""What the trainer, the search and the command line know of an editor.

An editor turns a source image and an instruction into a `Condition`, gives starting noise, and predicts the clean
latents and the noise from noisy ones. How it is prompted, how the source enters, what it predicts and its guidance
live in its adapter and nowhere else. Sampling is `editing.rollout`; one step of it is `editing.transition`.

    editor = load_editor("tiny")
    condition = editor.collate(editor.encode([image], ["make the circle blue"])).repeat(8)
    sigmas = editor.schedule(8, condition.latent_shape)
    x = torch.stack([editor.prior("any name of the group", member, condition.latent_shape) for member in range(8)])
    images = to_images(editor.decode(rollout(editor, condition, x, sigmas, ODE()).final, condition))
"""

__all__ = [
    "Condition",
    "ConditionCache",
    "Editor",
    "NotFiniteError",
    "Prediction",
    "images_or_failures",
    "seeded_noise",
    "to_images",
    "unit_range",
]

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmreward.score import Failure
from mmreward.training import TrainingError


@dataclass(frozen=True)
class Condition:
    """Everything a prediction depends on besides the noisy latents; a batch of rows of one resolution."""

    tensors: Mapping[str, Tensor]
    """Each [B, ...]: text, source latents, guidance: what the adapter's `predict` reads."""
    latent_shape: tuple[int, int]
    """(tokens, channels) of the latents that belong to it."""
    size: tuple[int, int]
    """(height, width) in pixels of the images that `decode` gives."""

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def repeat(self, members: int) -> "Condition":
        """Each row `members` times, rows of a group together: a, a, a, b, b, b."""
        return self._map(lambda tensor: tensor.repeat_interleave(members, dim=0))

    def select(self, rows: Sequence[int] | slice | Tensor) -> "Condition":
        """Some rows, by numbers or a slice."""
        index = rows if isinstance(rows, slice | Tensor) else torch.as_tensor(list(rows), dtype=torch.long)
        return self._map(lambda tensor: tensor[index])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Condition":
        tensors = {name: change(tensor) for name, tensor in self.tensors.items()}
        return Condition(tensors, self.latent_shape, self.size)


class Prediction(NamedTuple):
    """What the model sees in a noisy sample, float32 [B, tokens, channels] each."""

    x0: Tensor
    eps: Tensor


class Editor(Protocol):
    """An editing model behind one interface."""

    name: str
    module: nn.Module
    """The trainable network; gradient of `predict` reaches its parameters."""
    lora_targets: tuple[str, ...]
    """Names of the linear layers in `module` that LoRA adapts (peft's `target_modules`)."""
    default_steps: int
    """Sampling steps when nobody says otherwise."""
    predicts: Literal["velocity", "noise"]
    """What the network predicts."""
    domain: str
    """For which sources it is valid, see `mmreward.domain`: any, or shapes."""

    def edit_size(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) of the edits of a source of this size: its bucket. Rows of one bucket can share a batch."""
        ...

    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> list[Condition]:
        """One condition of batch size 1 per row, without gradient, cached by pixels and text."""
        ...

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        """One batch out of several conditions; they must have one resolution."""
        ...

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        """Noise levels [steps + 1], float32, falling from the noisiest that the network knows (1 for flow) to 0."""
        ...

    def prior(self, group: str, member: int, latent_shape: tuple[int, int]) -> Tensor:
        """The sample at the first level, float32 [tokens, channels]: noise of one member of a group, the same on every
        machine.
        """
        ...

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        """Clean latents and noise, from latents x [B, tokens, channels] at noise level t (a number or [B])."""
        ...

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        """Images [B, 3, H, W], float32 in [0, 1]; NaN where the network's output is not finite; differentiable."""
        ...

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder that loads again, whole or not at all, LoRA merged; `dtype` is that of the stored weights."""
        ...


class NotFiniteError(TrainingError):
    """An editor's network gave NaN or infinity where an image was expected."""


def unit_range(pixels: Tensor) -> Tensor:
    """An autoencoder's pixels in [-1, 1], of any float type, as float32 in [0, 1]; what is infinite becomes NaN, or it
    would be taken for white or black.
    """
    pixels = pixels.float() / 2 + 0.5
    return torch.where(pixels.isinf(), torch.nan, pixels.clamp(0, 1))


def images_or_failures(images: Tensor) -> list[Image.Image | Failure]:
    """[B, 3, H, W] in [0, 1] to RGB images; one with a pixel that is not finite is a failure of status `error`."""
    images = images.detach().float()
    finite = images.isfinite()
    array = (images.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    whole = finite.flatten(1).all(dim=1).tolist()
    return [
        Image.fromarray(pixels) if whole[row] else _not_finite(1 - float(finite[row].float().mean()))
        for row, pixels in enumerate(array)
    ]


def to_images(images: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [0, 1] to RGB images. Raises `NotFiniteError` where one has a pixel that is not finite."""
    made = images_or_failures(images)
    failures = [image for image in made if isinstance(image, Failure)]
    if failures:
        raise NotFiniteError(f"{len(failures)} of {len(made)} images: {failures[0].error}")
    return [image for image in made if not isinstance(image, Failure)]


def _not_finite(share: float) -> Failure:
    return Failure(
        "error",
        f"the editor's output is not finite (NaN or infinity in {share:.0%} of it). Half precision may overflow: "
        "load the editor with ?dtype=bfloat16 or ?dtype=float32, and in training set loop.autocast: no; if it stays so "
        "in float32, the weights are broken (a collapsed run, a bad merge)",
    )


def seeded_noise(shape: tuple[int, ...], *names: object) -> Tensor:
    """Standard normal noise that depends on `names` only (made on the CPU, float32)."""
    digest = hashlib.sha256("\x1f".join(str(name) for name in names).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
    return torch.randn(shape, generator=generator)


class ConditionCache:
    """The latest conditions, by source pixels and instruction, up to `max_bytes` of tensors."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._entries: OrderedDict[str, Condition] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def key(source: Image.Image, instruction: str) -> str:
        pixels = np.asarray(source.convert("RGB"))
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes() + instruction.encode()).hexdigest()

    def get(self, key: str) -> Condition | None:
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: str, condition: Condition) -> None:
        if key in self._entries:
            return
        self._entries[key] = condition
        self._bytes += _bytes(condition)
        while self._bytes > self.max_bytes and len(self._entries) > 1:
            self._bytes -= _bytes(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        self._entries.clear()
        self._bytes = 0


def _bytes(condition: Condition) -> int:
    return sum(tensor.nbytes for tensor in condition.tensors.values())
