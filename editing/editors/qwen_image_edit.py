"""Qwen-Image-Edit and -Plus (2509, 2511): a flow-matching transformer whose text encoder sees the source image too.

x = (1 - t) x0 + t eps and the network predicts v = eps - x0, with the source's tokens after the target's. The text is
the last states of Qwen2.5-VL over a template, the instruction and the source; the template's tokens are dropped by the
pipeline's own code. Edit shows the text encoder the image that the autoencoder gets, Plus a smaller one. Guidance is
true classifier-free guidance, two passes at each step, and each token's result keeps the length of the conditional
one: v = u |c| / |u| with u = n + guidance (c - n). The negative instruction is a space, encoded beside the source.

Texts have their own lengths: `collate` pads them, and padding is masked. An instruction cannot smuggle in the text
encoder's control tokens: "<|" is written apart.

Works on a folder or hub id of diffusers' `QwenImageEditPipeline` and `QwenImageEditPlusPipeline` (Wu et al., 2025,
https://arxiv.org/abs/2508.02324), with one source image; a test holds the ODE rule against the pipeline's output.
"""

__all__ = ["QwenImageEditEditor"]

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from editing.editors.buckets import bucket
from editing.editors.editor import Condition, Prediction, unit_range
from editing.editors.flow import from_velocity, shifted_schedule
from editing.editors.pipeline import PipelineEditor

_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class QwenImageEditEditor(PipelineEditor):
    """The `Editor` protocol over a `QwenImageEditPipeline` or `QwenImageEditPlusPipeline`.

    Args:
        guidance: the true guidance scale; 1 or less: no guidance, one pass instead of two.
        text_area: pixels of the image that the text encoder sees; None: `max_area` for Edit, 384² for Plus.
        others: see `PipelineEditor`.
    """

    pipelines = ("QwenImageEditPipeline", "QwenImageEditPlusPipeline")
    multiple = 32  # as in the pipelines, twice what the tokens would need

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        name: str = "qwen-image-edit",
        guidance: float = 4.0,
        max_area: int = 1024 * 1024,
        text_area: int | None = None,
        steps: int = 50,
        **others: Any,
    ) -> None:
        super().__init__(pipeline, name, max_area, steps, **others)
        self.is_plus = type(pipeline).__name__ == "QwenImageEditPlusPipeline"
        self.guidance, self.text_area = guidance, text_area or (384 * 384 if self.is_plus else max_area)
        self.lora_targets = _targets(self.module)

    def _settings(self) -> dict[str, Any]:
        return {"guidance": self.guidance, "text_area": self.text_area}

    def _encode_one(self, source: Image.Image, instruction: str) -> Condition:
        pipeline, size = self.pipeline, self.edit_size(*source.size)
        seen = self._resized(source, bucket(*source.size, self.text_area, self.multiple))
        grid = pipeline._encode_vae_image(self._pixels(source, size).unsqueeze(2), generator=None)
        _, channels, _, height, width = grid.shape
        tensors = {"source": pipeline._pack_latents(grid, 1, channels, height, width)}
        texts = {"text": instruction.replace("<|", "< |")} | ({"negative": " "} if self.guidance > 1 else {})
        for name, text in texts.items():
            states, _ = pipeline.encode_prompt([text], [seen] if self.is_plus else seen, self.device)
            tensors[name] = states
            tensors[f"{name}_mask"] = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        if self.guidance > 1:
            tensors["guidance"] = torch.full((1,), self.guidance, device=grid.device)
        return Condition(tensors, (height * width // 4, 4 * channels), size)

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        names = [name for name in conditions[0].tensors if name.startswith(("text", "negative"))]
        longest = {name: max(condition.tensors[name].shape[1] for condition in conditions) for name in names}
        return super().collate([_padded(condition, longest) for condition in conditions])

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        return shifted_schedule(self.pipeline.scheduler, steps, latent_shape[0])

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        level = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        v = self._velocity(x, level, condition, "text")
        if "negative" in condition.tensors:
            without = self._velocity(x, level, condition, "negative")
            guided = without + condition.tensors["guidance"].view(-1, 1, 1) * (v - without)
            v = guided * (v.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))
        return from_velocity(x, v, level)

    def _velocity(self, x: Tensor, level: Tensor, condition: Condition, text: str) -> Tensor:
        network: Any = self.module
        given, dtype = condition.tensors, self.dtype
        mask = given[f"{text}_mask"]
        shape = (1, *(pixels // (2 * self.pipeline.vae_scale_factor) for pixels in condition.size))
        return network(
            hidden_states=torch.cat([x.to(dtype), given["source"].to(dtype)], dim=1),
            timestep=level.to(dtype),
            encoder_hidden_states=given[text].to(dtype),
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[shape, shape]] * len(x),
            return_dict=False,
        )[0][:, : x.shape[1]].float()

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        vae = self.pipeline.vae
        grid = self.pipeline._unpack_latents(latents.to(vae.dtype), *condition.size, self.pipeline.vae_scale_factor)
        mean, deviation = (
            grid.new_tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return unit_range(vae.decode(grid * deviation + mean, return_dict=False)[0][:, :, 0])


def _targets(network: Any) -> tuple[str, ...]:
    """Every attention layer by its full name, but those of the last block that only the text's unused output needs."""
    last = len(network.transformer_blocks) - 1
    idle = {f"transformer_blocks.{last}.attn.{name}" for name in ("add_q_proj", "to_add_out")}
    names = (name for name, _ in network.named_modules() if name.endswith(tuple(f".attn.{a}" for a in _ADAPTED)))
    return tuple(name for name in names if name not in idle)


def _padded(condition: Condition, lengths: dict[str, int]) -> Condition:
    """Texts and their masks filled up to `lengths` with zeros."""
    tensors = dict(condition.tensors)
    for name, length in lengths.items():
        missing = length - tensors[name].shape[1]
        tensors[name] = pad(tensors[name], (*(0, 0) * (tensors[name].ndim - 2), 0, missing))
    return replace(condition, tensors=tensors)
