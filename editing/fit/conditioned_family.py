"""What supervised fine-tuning must know of an editor's family besides the `Editor` protocol: how targets become
latents, which noise levels it is trained at, and what its network learns to predict.
"""

__all__ = ["Diffusion", "Family", "Flow", "family_of"]

from typing import Any, Protocol

import torch
from torch import Tensor

from editing.editors.diffusion import scale
from editing.editors.instruct_pix2pix import InstructPix2PixEditor
from editing.editors.kontext import KontextEditor
from editing.editors.pipeline import PipelineEditor


class Family(Protocol):
    """One way of training. Latents are [B, tokens, channels], levels t [B]."""

    def latents(self, pixels: Tensor) -> Tensor:
        """Of images [B, 3, H, W] in [-1, 1], as the sampler ends with them."""
        ...

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Random noise levels to train at, float32 [count]."""
        ...

    def learned(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network predicts where x = (1 - t) x0 + t eps."""
        ...


class Flow:
    """FLUX Kontext: v = eps - x0 at t = sigmoid(normal(mean, deviation))."""

    def __init__(self, editor: KontextEditor, mean: float, deviation: float) -> None:
        self.editor, self.mean, self.deviation = editor, mean, deviation

    def latents(self, pixels: Tensor) -> Tensor:
        return self.editor.pack(self.editor.pipeline._encode_vae_image(pixels, generator=None)).float()

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.sigmoid(self.mean + self.deviation * torch.randn(count, generator=generator))

    def learned(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps - x0


class Diffusion:
    """InstructPix2Pix: the noise, or v in variance-preserving coordinates, at each of the table's levels alike."""

    def __init__(self, editor: InstructPix2PixEditor) -> None:
        self.editor = editor

    def latents(self, pixels: Tensor) -> Tensor:
        pipeline: Any = self.editor.pipeline
        config = pipeline.vae.config
        grid = pipeline.prepare_image_latents(pixels, len(pixels), 1, pixels.dtype, pixels.device, False).float()
        mean, deviation = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
        if mean and deviation:
            mean, deviation = (grid.new_tensor(values).view(1, -1, 1, 1) for values in (mean, deviation))
            grid = (grid - mean) / deviation
        return (grid * config.scaling_factor).flatten(2).mT.contiguous()

    def levels(self, count: int, generator: torch.Generator) -> Tensor:
        table = self.editor.levels
        return table[torch.randint(len(table), (count,), generator=generator)]

    def learned(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        if self.editor.prediction == "epsilon":
            return eps
        level = t.view(-1, 1, 1)
        return ((1 - level) * eps - level * x0) / scale(level)


def family_of(editor: PipelineEditor, mean: float, deviation: float) -> Family:
    """That of `editor`; `mean` and `deviation` say at which noise levels a flow is trained."""
    if isinstance(editor, KontextEditor):
        return Flow(editor, mean, deviation)
    if isinstance(editor, InstructPix2PixEditor):
        return Diffusion(editor)
    raise ValueError(
        f"fine-tuning on scored triplets knows FLUX Kontext and InstructPix2Pix, and {editor.name} is a "
        f"{type(editor).__name__}; train it with the task 'reward' instead"
    )
