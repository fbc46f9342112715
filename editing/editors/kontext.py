"""FLUX.1 Kontext: a flow-matching transformer that reads the source's latents after the target's.

x = (1 - t) x0 + t eps; the network predicts v = eps - x0, so x0 = x - t v and eps = x + (1 - t) v. Latents are the
VAE's, shifted and scaled, in 2x2 patches: [B, tokens, 4 channels]. The source's tokens follow the target's in the
sequence and carry a 1 on the first position axis. Guidance is an embedding, frozen in the condition. The text is the
T5 states (unmasked padding, as the pipeline does it) and CLIP's pooled vector.

Works on a folder or hub id of diffusers' `FluxKontextPipeline` (Batifol et al., 2025,
https://arxiv.org/abs/2506.15742), whose own components do the encoding and decoding here; a test holds the ODE rule
against the pipeline's output. A bundled folder's `mmreward.json` may set the constructor's options under "editor".
"""

__all__ = ["KontextEditor"]

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from diffusers.utils import logging
from PIL import Image
from torch import Tensor

from editing.editors.editor import Condition, ConditionCache, Prediction, seeded_noise


class KontextEditor:
    """The `Editor` protocol over a `FluxKontextPipeline`.

    Args:
        pipeline: its components are used as they are; `module` is its transformer.
        guidance: the value of the guidance embedding.
        max_area: pixels of the edited image; sources are resized to it, keeping the aspect ratio, to multiples of 16.
        max_tokens: length of the T5 text.
        cache_bytes: encoded conditions that are kept.
    """

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
        cache_bytes: int = 2**29,
    ) -> None:
        self.pipeline, self.name = pipeline, name
        self.guidance, self.max_area, self.max_tokens, self.default_steps = guidance, max_area, max_tokens, steps
        self.module = pipeline.transformer
        for component in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            component.requires_grad_(False).eval()
        self._cache = ConditionCache(cache_bytes)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> "KontextEditor":
        """From a folder or hub id, safetensors only; options as in the constructor."""
        described = Path(folder) / "mmreward.json"
        settings = json.loads(described.read_text()).get("editor", {}) if described.is_file() else {}
        with _quiet():
            pipeline = FluxKontextPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, **{"name": Path(folder).name, **settings, **options})

    @torch.no_grad()
    def encode(self, sources: Sequence[Image.Image], instructions: Sequence[str]) -> list[Condition]:
        if len(sources) != len(instructions):
            raise ValueError(f"encode: {len(sources)} sources for {len(instructions)} instructions")
        keys = [ConditionCache.key(source, text) for source, text in zip(sources, instructions, strict=True)]
        cached = {key: self._cache.get(key) for key in keys}
        found = {key: condition for key, condition in cached.items() if condition is not None}
        missing = [key for key in cached if key not in found]
        if missing:
            rows = [keys.index(key) for key in missing]
            new = self._encode([sources[row] for row in rows], [instructions[row] for row in rows])
            for key, condition in zip(missing, new, strict=True):
                self._cache.put(key, condition)
                found[key] = condition
        return [found[key] for key in keys]

    def _encode(self, sources: list[Image.Image], instructions: list[str]) -> list[Condition]:
        pipeline = self.pipeline
        text, pooled, _ = pipeline.encode_prompt(prompt=instructions, max_sequence_length=self.max_tokens)
        conditions = []
        for row, source in enumerate(sources):
            height, width = self._size(source)
            pixels = pipeline.image_processor.resize(source.convert("RGB"), height, width)
            pixels = pipeline.image_processor.preprocess(pixels, height, width).to(pipeline.vae.device, text.dtype)
            latents = self.pack(pipeline._encode_vae_image(pixels, generator=None))
            tensors = {
                "text": text[row : row + 1],
                "pooled": pooled[row : row + 1],
                "source": latents,
                "guidance": torch.full((1,), self.guidance, device=latents.device),
            }
            _, tokens, channels = latents.shape
            conditions.append(Condition(tensors, (tokens, channels), (height, width)))
        return conditions

    def forget(self) -> None:
        """Drops the cached conditions, for when the encoders have changed."""
        self._cache.clear()

    def _size(self, source: Image.Image) -> tuple[int, int]:
        multiple = self.pipeline.vae_scale_factor * 2
        ratio = source.width / source.height
        sides = ((self.max_area / ratio) ** 0.5, (self.max_area * ratio) ** 0.5)
        height, width = (max(round(side) // multiple, 1) * multiple for side in sides)
        return height, width

    def collate(self, conditions: Sequence[Condition]) -> Condition:
        sizes = {condition.size for condition in conditions}
        if len(sizes) != 1:
            raise ValueError(f"collate: one resolution a batch, but got {sorted(sizes)}; group the rows by size")
        names = conditions[0].tensors
        tensors = {name: torch.cat([condition.tensors[name] for condition in conditions]) for name in names}
        return Condition(tensors, conditions[0].latent_shape, conditions[0].size)

    def schedule(self, steps: int, latent_shape: tuple[int, int]) -> Tensor:
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        mu = calculate_shift(
            latent_shape[0],
            scheduler.config.get("base_image_seq_len", 256),
            scheduler.config.get("max_image_seq_len", 4096),
            scheduler.config.get("base_shift", 0.5),
            scheduler.config.get("max_shift", 1.15),
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
        return scheduler.sigmas.float().cpu()

    def prior(self, group: str, member: int, latent_shape: tuple[int, int]) -> Tensor:
        return seeded_noise(tuple(latent_shape), "prior", group, member).to(self.module.device)

    def predict(self, x: Tensor, t: float | Tensor, condition: Condition) -> Prediction:
        dtype, device = self.module.dtype, x.device
        level = torch.as_tensor(t, dtype=torch.float32, device=device).expand(len(x))
        given = condition.tensors
        v = self.module(
            hidden_states=torch.cat([x.to(dtype), given["source"].to(dtype)], dim=1),
            timestep=level.to(dtype),
            guidance=given["guidance"] if self.module.config.guidance_embeds else None,
            pooled_projections=given["pooled"].to(dtype),
            encoder_hidden_states=given["text"].to(dtype),
            txt_ids=torch.zeros(given["text"].shape[1], 3, device=device),
            img_ids=self._position_ids(condition.size).to(device),
            return_dict=False,
        )[0][:, : x.shape[1]]
        noisy, v, level = x.float(), v.float(), level.view(-1, 1, 1)
        return Prediction(x0=noisy - level * v, eps=noisy + (1 - level) * v)

    def _position_ids(self, size: tuple[int, int]) -> Tensor:
        multiple = self.pipeline.vae_scale_factor * 2
        rows, columns = torch.meshgrid(*(torch.arange(side // multiple) for side in size), indexing="ij")
        target = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
        return torch.cat([target, target + torch.tensor([1, 0, 0])]).float()

    def decode(self, latents: Tensor, condition: Condition) -> Tensor:
        vae, size = self.pipeline.vae, condition.size
        grid = self.pipeline._unpack_latents(latents.to(vae.dtype), *size, self.pipeline.vae_scale_factor)
        grid = grid / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(grid, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    @staticmethod
    def pack(grid: Tensor) -> Tensor:
        """[B, channels, h, w] to [B, h/2 * w/2, 4 channels]."""
        return FluxKontextPipeline._pack_latents(grid, *grid.shape)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        module = copy.deepcopy(self.module)
        if getattr(module, "peft_config", None):
            module.fuse_lora()
            module.unload_lora()
        parts = {**self.pipeline.components, "transformer": module}
        if dtype is not None:
            parts = {name: copy.deepcopy(p).to(dtype) if hasattr(p, "parameters") else p for name, p in parts.items()}
        folder = Path(folder)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with _quiet():
            FluxKontextPipeline(**parts).save_pretrained(partial, safe_serialization=True)
        _forget_paths(partial)
        settings = {"guidance": self.guidance, "max_area": self.max_area}
        settings |= {"max_tokens": self.max_tokens, "steps": self.default_steps}
        described = json.dumps({"name": self.name, "domain": "any", "editor": settings}, indent=2)
        (partial / "mmreward.json").write_text(described + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def _forget_paths(folder: Path) -> None:
    """Configurations without the folder of this machine that they were read from."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' remarks on an autoencoder of another class than FLUX's own, and its progress bar."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        logging.enable_progress_bar()
