"""InstructPix2Pix (SD 1.5 and SDXL): a U-Net that reads the source's latents as extra channels.

Its network predicts epsilon or v in variance-preserving coordinates; `editing.editors.diffusion` brings both to the
straight line of the project's samplers and losses.

Guidance is two-way and frozen in the condition, three passes of the network in one batch:
out = none + image_guidance (image - none) + guidance (both - image). `latents` are pixels of the latent grid as
tokens, [B, h * w, channels]; the source's latents are not scaled, as the models were trained.

Works on a folder or hub id of diffusers' two pipelines (Brooks et al., 2022, https://arxiv.org/abs/2211.09800). A test
holds the ODE rule against the pipeline's output with DDIM. The safety checker is not loaded.
"""

__all__ = ["InstructPix2PixEditor"]

from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from editing.editors.diffusion import from_output, scale, table, trailing_schedule, unit_coordinates
from editing.editors.editor import Condition, Prediction, unit_range
from editing.editors.pipeline import PipelineEditor


class InstructPix2PixEditor(PipelineEditor):
    """The `Editor` protocol over a `StableDiffusion(XL)InstructPix2PixPipeline`.

    Args:
        guidance: of the instruction; 1 or less: no guidance at all, one pass instead of three. None: the pipeline's
            own, 7.5, and 5 for SDXL.
        image_guidance: of the source, at least 1.
        max_area: None: that of the images that the network was trained on.
        others: see `PipelineEditor`.
    """

    pipelines = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
    network = "unet"
    encoders = ("text_encoder", "text_encoder_2")
    left_out = ("safety_checker", "feature_extractor", "image_encoder")
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        name: str = "instruct-pix2pix",
        guidance: float | None = None,
        image_guidance: float = 1.5,
        max_area: int | None = None,
        steps: int = 20,
        **others: Any,
    ) -> None:
        super().__init__(pipeline, name, max_area or _trained_area(pipeline), steps, **others)
        if image_guidance < 1:
            raise ValueError(f"image_guidance is {image_guidance}, but must be at least 1 (1: none)")
        self.is_xl = "text_encoder_2" in pipeline.components
        self.guidance = guidance if guidance is not None else 5.0 if self.is_xl else 7.5
        self.image_guidance = image_guidance
        self.prediction, self.levels = table(pipeline.scheduler)
        self.predicts = "noise" if self.prediction == "epsilon" else "velocity"

    def _settings(self) -> dict[str, Any]:
        return {"guidance": self.guidance, "image_guidance": self.image_guidance}

    @property
    def multiple(self) -> int:
        return int(self.pipeline.vae_scale_factor)

    def _encode_one(self, source: Image.Image, instruction: str) -> Condition:
        size = self.edit_size(*source.size)
        pixels = self._pixels(source, size)
        grid = self.pipeline.prepare_image_latents(pixels, 1, 1, pixels.dtype, pixels.device, False)
        tensors = self._texts(instruction) | {"source": grid}
        if "no_text" in tensors:
            tensors["guidance"] = torch.tensor([[self.guidance, self.image_guidance]], device=grid.device)
        if self.is_xl:
            tensors["time_ids"] = torch.tensor([[*size, 0, 0, *size]], dtype=torch.float32, device=grid.device)
        _, _, height, width = grid.shape
        return Condition(tensors, (height * width, int(self.pipeline.vae.config.latent_channels)), size)

    def _texts(self, instruction: str) -> dict[str, Tensor]:
        """The instruction and, under guidance, the empty one."""
        if self.is_xl:
            empty = None if self.pipeline.config.force_zeros_for_empty_prompt else ""
            found = self.pipeline.encode_prompt(instruction, device=self.device, negative_prompt=empty)
            texts = dict(zip(("text", "no_text", "pooled", "no_pooled"), found, strict=True))
        else:
            found = self.pipeline._encode_prompt(instruction, self.device, 1, True).chunk(3)
            texts = dict(zip(("text", "no_text"), found[:2], strict=True))
        return texts if self.guidance > 1 else {name: text for name, text in texts.items() if "no_" not in name}

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        return trailing_schedule(self.levels, steps)

    def prior(self, group: str, member: int, latent_shape: tuple[int, int]) -> Tensor:
        return super().prior(group, member, latent_shape) * scale(self.levels[-1]).to(self.device)

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        levels = self.levels.to(x.device)
        level = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        y, timestep = unit_coordinates(x, level, levels)
        out = self._guided(y.mT.unflatten(2, self._grid(condition)), timestep, condition).flatten(2).mT
        return from_output(x, y, out, level, levels, self.prediction)

    def _guided(self, grid: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The network's output [B, channels, h, w], float32."""
        network: Any = self.module
        given = {name: tensor.to(self.dtype) for name, tensor in condition.tensors.items()}
        text, source, passes = given["text"], given["source"], 1
        extra = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]} if self.is_xl else None
        if "no_text" in given:
            passes = 3
            text = torch.cat([text, given["no_text"], given["no_text"]])
            source = torch.cat([source, source, torch.zeros_like(source)])
            if self.is_xl:
                pooled = torch.cat([given["pooled"], given["no_pooled"], given["no_pooled"]])
                extra = {"text_embeds": pooled, "time_ids": given["time_ids"].repeat(3, 1)}
        seen = torch.cat([grid.to(self.dtype).repeat(passes, 1, 1, 1), source], dim=1)
        out = network(
            seen, timestep.repeat(passes), encoder_hidden_states=text, added_cond_kwargs=extra, return_dict=False
        )[0].float()
        if passes == 1:
            return out
        both, image, none = out.chunk(3)
        of_text, of_image = condition.tensors["guidance"].view(-1, 2, 1, 1, 1).unbind(1)
        return none + of_text * (both - image) + of_image * (image - none)

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        vae = self.pipeline.vae
        grid = latents.to(vae.dtype).mT.unflatten(2, self._grid(condition)) / vae.config.scaling_factor
        mean, deviation = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean and deviation:
            grid = grid * grid.new_tensor(deviation).view(1, -1, 1, 1) + grid.new_tensor(mean).view(1, -1, 1, 1)
        return unit_range(vae.decode(grid, return_dict=False)[0])

    def _grid(self, condition: Condition) -> tuple[int, int]:
        height, width = (side // self.pipeline.vae_scale_factor for side in condition.size)
        return height, width


def _trained_area(pipeline: Any) -> int:
    """Pixels of the images that the network was trained on, as its configuration says; Stable Diffusion's 512²."""
    side = pipeline.unet.config.sample_size or 64
    height, width = side if isinstance(side, list | tuple) else (side, side)
    return int(height * width * pipeline.vae_scale_factor**2)
