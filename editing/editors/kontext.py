"""FLUX.1 Kontext: a flow-matching transformer that reads the source's latents after the target's.

x = (1 - t) x0 + t eps; the network predicts v = eps - x0, so x0 = x - t v and eps = x + (1 - t) v. Latents are the
VAE's, shifted and scaled, in 2x2 patches: [B, tokens, 4 channels]. The source's tokens follow the target's in the
sequence and carry a 1 on the first position axis. Guidance is an embedding, frozen in the condition. The text is the
T5 states (unmasked padding, as the pipeline does it) and CLIP's pooled vector.

Shapes are those that Kontext was trained on, scaled to `max_area` (the pipeline's table at a megapixel). Unlike the
pipeline's default, which answers any source with a square, an edit has the shape of its source.

Works on a folder or hub id of diffusers' `FluxKontextPipeline` (Batifol et al., 2025,
https://arxiv.org/abs/2506.15742), whose own components do the encoding and decoding here; a test holds the ODE rule
against the pipeline's output.
"""

__all__ = ["KontextEditor"]

from typing import Any

import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from PIL import Image
from torch import Tensor

from editing.editors.editor import Condition, Prediction, unit_range
from editing.editors.flow import from_velocity, shifted_schedule
from editing.editors.pipeline import PipelineEditor


class KontextEditor(PipelineEditor):
    """The `Editor` protocol over a `FluxKontextPipeline`.

    Args:
        guidance: the value of the guidance embedding.
        max_tokens: length of the T5 text.
        others: see `PipelineEditor`.
    """

    pipelines = ("FluxKontextPipeline",)
    encoders = ("text_encoder", "text_encoder_2")
    shapes = tuple((width / 1024, height / 1024) for width, height in PREFERRED_KONTEXT_RESOLUTIONS)
    lora_targets: tuple[str, ...] = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def __init__(
        self,
        pipeline: FluxKontextPipeline,
        name: str = "kontext",
        guidance: float = 2.5,
        max_area: int = 1024 * 1024,
        max_tokens: int = 512,
        steps: int = 28,
        **others: Any,
    ) -> None:
        super().__init__(pipeline, name, max_area, steps, **others)
        self.guidance, self.max_tokens = guidance, max_tokens
        pipeline.vae.to(memory_format=torch.channels_last)  # convolutions on a CPU: several times as fast

    def _settings(self) -> dict[str, Any]:
        return {"guidance": self.guidance, "max_tokens": self.max_tokens}

    def _encode_one(self, source: Image.Image, instruction: str) -> Condition:
        pipeline, size = self.pipeline, self.edit_size(*source.size)
        text, pooled, _ = pipeline.encode_prompt(
            prompt=[instruction], device=self.device, max_sequence_length=self.max_tokens
        )
        latents = self.pack(pipeline._encode_vae_image(self._pixels(source, size), generator=None))
        guidance = torch.full((1,), self.guidance, device=latents.device)
        tensors = {"text": text, "pooled": pooled, "source": latents, "guidance": guidance}
        _, tokens, channels = latents.shape
        return Condition(tensors, (tokens, channels), size)

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        return shifted_schedule(self.pipeline.scheduler, steps, latent_shape[0])

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        network: Any = self.module
        dtype, device = self.dtype, x.device
        level = torch.as_tensor(t, dtype=torch.float32, device=device).expand(len(x))
        given = condition.tensors
        v = network(
            hidden_states=torch.cat([x.to(dtype), given["source"].to(dtype)], dim=1),
            timestep=level.to(dtype),
            guidance=given["guidance"] if network.config.guidance_embeds else None,
            pooled_projections=given["pooled"].to(dtype),
            encoder_hidden_states=given["text"].to(dtype),
            txt_ids=torch.zeros(given["text"].shape[1], 3, device=device),
            img_ids=self._position_ids(condition.size).to(device),
            return_dict=False,
        )[0][:, : x.shape[1]]
        return from_velocity(x, v, level)

    def _position_ids(self, size: tuple[int, int]) -> Tensor:
        rows, columns = torch.meshgrid(*(torch.arange(side // self.multiple) for side in size), indexing="ij")
        target = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        return torch.cat([target, target + torch.tensor([1, 0, 0])]).float()

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        vae, size = self.pipeline.vae, condition.size
        grid = self.pipeline._unpack_latents(latents.to(vae.dtype), *size, self.pipeline.vae_scale_factor)
        grid = grid / vae.config.scaling_factor + vae.config.shift_factor
        return unit_range(vae.decode(grid, return_dict=False)[0])

    @staticmethod
    def pack(grid: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, h/2 * w/2, 4 channels]."""
        return FluxKontextPipeline._pack_latents(grid, *grid.shape)
