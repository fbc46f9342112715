"""InstructPix2Pix (SD 1.5 and SDXL): a U-Net that reads the source's latents as extra channels.

These models are trained in variance-preserving coordinates, y = sqrt(a) x0 + sqrt(1 - a) eps, on a table of a
(`alphas_cumprod`). The project's samplers and losses use the straight line x = (1 - t) x0 + t eps. The two are the same
sample on another scale, and the adapter is the only place that knows it:

    t = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a))        y = x / sqrt((1 - t)² + t²)

So the deterministic step of a flow model, (1 - t') x0 + t' eps, is exactly the step of DDIM with eta 0, and CPS its
noisy form. Two things follow. The noisiest level of the table lies below 1 (0.936 for Stable Diffusion): `schedule`
starts there, at the last training timestep ("trailing" spacing), and `prior` gives the unit noise of the pipeline on
that scale. A level above it is predicted as if it were it, and a level between two timesteps at the nearer one.

Guidance is two-way and frozen in the condition, three passes of the network in one batch:
out = none + image_guidance (image - none) + guidance (both - image). `latents` are pixels of the latent grid as
tokens, [B, h * w, channels]; the source's latents are not scaled, as the models were trained.

Works on a folder or hub id of diffusers' two pipelines (Brooks et al., 2022, https://arxiv.org/abs/2211.09800; Lin et
al., 2023, https://arxiv.org/abs/2305.08891, for the spacing; Salimans and Ho, 2022, https://arxiv.org/abs/2202.00512,
for v). A test holds the ODE rule against the pipeline's output with DDIM. The safety checker is not loaded.
"""

__all__ = ["InstructPix2PixEditor"]

from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from editing.editors.editor import Condition, Prediction
from editing.editors.pipeline import PipelineEditor


class InstructPix2PixEditor(PipelineEditor):
    """The `Editor` protocol over a `StableDiffusion(XL)InstructPix2PixPipeline`.

    Args:
        guidance: of the instruction; 1 or less: no guidance at all, one pass instead of three.
        image_guidance: of the source, at least 1.
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
        guidance: float = 7.5,
        image_guidance: float = 1.5,
        max_area: int = 512 * 512,
        steps: int = 20,
        **others: Any,
    ) -> None:
        super().__init__(pipeline, name, max_area, steps, **others)
        if image_guidance < 1:
            raise ValueError(f"image_guidance is {image_guidance}, but must be at least 1 (1: none)")
        self.guidance, self.image_guidance = guidance, image_guidance
        self.prediction, self.levels = _table(pipeline.scheduler)
        self.is_xl = "text_encoder_2" in pipeline.components

    def _settings(self) -> dict[str, Any]:
        return {"guidance": self.guidance, "image_guidance": self.image_guidance}

    def _encode(self, sources: list[Image.Image], instructions: list[str]) -> list[Condition]:
        texts = self._texts(instructions)
        conditions = []
        for row, source in enumerate(sources):
            size = self._bucket(source, self.max_area, self.pipeline.vae_scale_factor)
            pixels = self._pixels(source, size)
            grid = self.pipeline.prepare_image_latents(pixels, 1, 1, pixels.dtype, pixels.device, False)
            tensors = {name: text[row : row + 1] for name, text in texts.items()} | {"source": grid}
            if "no_text" in texts:
                tensors["guidance"] = torch.tensor([[self.guidance, self.image_guidance]], device=grid.device)
            if self.is_xl:
                tensors["time_ids"] = torch.tensor([[*size, 0, 0, *size]], dtype=grid.dtype, device=grid.device)
            _, _, height, width = grid.shape
            conditions.append(Condition(tensors, (height * width, self._channels), size))
        return conditions

    def _texts(self, instructions: list[str]) -> dict[str, Tensor]:
        """The instructions and, under guidance, the empty one."""
        if self.is_xl:
            empty = None if self.pipeline.config.force_zeros_for_empty_prompt else [""] * len(instructions)
            found = self.pipeline.encode_prompt(instructions, device=self.device, negative_prompt=empty)
            texts = dict(zip(("text", "no_text", "pooled", "no_pooled"), found, strict=True))
        else:
            found = self.pipeline._encode_prompt(instructions, self.device, 1, True).chunk(3)
            texts = dict(zip(("text", "no_text"), found[:2], strict=True))
        return texts if self.guidance > 1 else {name: text for name, text in texts.items() if "no_" not in name}

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        count = len(self.levels)
        if steps > count:
            raise ValueError(
                f"{steps} steps, but the model was trained on {count} noise levels; ask for at most as many"
            )
        timesteps = (torch.arange(steps, 0, -1, dtype=torch.float64) * count / steps).round().long() - 1
        return torch.cat([self.levels[timesteps], torch.zeros(1)])

    def prior(self, group: str, member: int, latent_shape: tuple[int, int]) -> Tensor:
        return super().prior(group, member, latent_shape) * _scale(self.levels[-1]).to(self.device)

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        levels = self.levels.to(x.device)
        level = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(len(x))
        timestep = torch.bucketize(level.contiguous(), (levels[1:] + levels[:-1]) / 2)
        known, level = level.clamp(max=float(levels[-1])).view(-1, 1, 1), level.view(-1, 1, 1)
        y = x.float() / _scale(level)
        grid = y.mT.unflatten(2, self._grid(condition))
        out = self._guided(grid, timestep, condition).flatten(2).mT
        signal, noise = (1 - known) / _scale(known), known / _scale(known)
        x0 = (y - noise * out) / signal if self.prediction == "epsilon" else signal * y - noise * out
        return Prediction(x0, (x.float() - (1 - level) * x0) / level)

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
        return (vae.decode(grid, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    @property
    def _channels(self) -> int:
        return int(self.pipeline.vae.config.latent_channels)

    def _grid(self, condition: Condition) -> tuple[int, int]:
        height, width = (side // self.pipeline.vae_scale_factor for side in condition.size)
        return height, width


def _scale(level: Tensor) -> Tensor:
    """Length of (1 - t, t): x is y times this."""
    return ((1 - level).square() + level.square()).sqrt()


def _table(scheduler: Any) -> tuple[str, Tensor]:
    """What the network predicts, and the noise levels t of the training timesteps, float32 [T], rising."""
    kind, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or prediction not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"the pipeline's scheduler {kind} (prediction_type {prediction!r}) is not understood; expected one with "
            "alphas_cumprod that predicts epsilon or v_prediction, such as DDIMScheduler"
        )
    signal, noise = (scheduler.alphas_cumprod.double().sqrt(), (1 - scheduler.alphas_cumprod.double()).sqrt())
    return prediction, (noise / (signal + noise)).float()
