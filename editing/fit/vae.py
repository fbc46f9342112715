"""Training the tiny autoencoder of the shapes world: recipe `tiny-vae`.

loss = weighted L1 + `mse` x weighted squared error + `kl` x KL(q(z|x) || N(0, I)) (mean per latent number); pixels that
differ from their neighbours weigh more, for shapes are told by their edges. Afterwards the latents are scaled per
channel to mean 0 and deviation 1; the quantisation convolutions absorb that, so nobody downstream needs to know.

What counts is not the error but whether a reconstruction still shows the same scene: the oracle's success of
reconstructed true targets is the ceiling for any editor on top. It is measured on validation scenes and stored.

    mmreward train tiny-vae --out runs/vae          # writes runs/vae/model
"""

__all__ = ["VAERecipe", "normalise_latents", "reconstruct", "reconstruction_success", "run"]

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from editing.fit.card import write_card
from editing.fit.tiny import VAEShape, tiny_vae
from mmreward.shapes import WORLD_VERSION, World, read, truth
from mmreward.training import LoopConfig, Loss, fit, read_config, save_atomic

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class VAERecipe(BaseModel, extra="forbid", frozen=True):
    """Settings of the recipe."""

    task: Literal["vae"] = "vae"
    shape: VAEShape = VAEShape()
    loop: LoopConfig
    batch: int = 16
    flawed: float = 0.15
    """Share of images with flaws (artefacts too), so that the editor's flawed targets are inside the domain."""
    mse: float = 5.0
    edges: float = 4.0
    kl: float = 0.002
    seed: int = 0
    checked: int = 512
    """Validation scenes for the ceiling."""


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Trains, measures and writes `folder`/model."""
    settings = read_config(VAERecipe, recipe, "the recipe of task 'vae'")
    vae = _initialised(settings)
    started = time.time()
    result = fit(vae, lambda step: _batch(settings, step), _loss_of(settings), settings.loop, folder, resume=resume)
    vae.load_state_dict(result.ema_state or vae.state_dict())
    finish(vae, settings, Path(folder) / "model", result.steps, result.seconds)
    print(f"{folder}/model written after {(time.time() - started) / 60:.1f} minutes")


def finish(vae: "AutoencoderKL", settings: VAERecipe, out: Path, steps: int, seconds: float) -> float:
    """Scales the latents, measures the ceiling, writes the model in bfloat16; returns the ceiling."""
    vae = copy.deepcopy(vae).eval().requires_grad_(False)
    world = World("train", seed=settings.seed + 1, kept_out="include")
    normalise_latents(vae, np.stack([world.task(index).target_image for index in range(1024)]))
    vae = vae.to(torch.bfloat16).float()  # what a reader of the file will have
    validation = World("validation", seed=settings.seed, kept_out="include")
    ceiling = reconstruction_success(vae, validation, settings.checked)

    def write(partial: Path) -> None:
        vae.to(torch.bfloat16).save_pretrained(partial)
        about = {
            "name": "tiny-vae",
            "domain": "shapes",
            "world_version": WORLD_VERSION,
            "half_trained": False,
            "data": f"{steps * settings.batch:,} rendered scenes of the train split, {settings.flawed:.0%} with flaws",
            "command": "mmreward train tiny-vae",
            "minutes": round(seconds / 60, 1),
            "numbers": {"reconstruction success on validation": round(ceiling, 4), "scenes": settings.checked},
        }
        write_card(partial, about, "An autoencoder (8x8 latents from 64x64 pixels) for images of the shapes world.")

    save_atomic(out, write)
    return ceiling


def reconstruct(vae: "AutoencoderKL", images: np.ndarray, batch: int = 64) -> np.ndarray:
    """uint8 [N, H, W, 3] through the autoencoder and back."""
    out = []
    with torch.no_grad():
        for start in range(0, len(images), batch):
            pixels = vae.decode(vae.encode(_to_tensor(images[start : start + batch])).latent_dist.mode()).sample
            out.append(((pixels.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return np.concatenate(out)


def reconstruction_success(vae: "AutoencoderKL", world: World, count: int) -> float:
    """Share of true targets whose reconstruction the oracle still calls a success."""
    tasks = [world.task(index) for index in range(count)]
    readings = read(reconstruct(vae, np.stack([task.target_image for task in tasks])))
    pairs = zip(tasks, readings, strict=True)
    return float(np.mean([truth(task.source, task.changes, reading).success for task, reading in pairs]))


@torch.no_grad()
def normalise_latents(vae: "AutoencoderKL", images: np.ndarray) -> None:
    """Mean 0 and deviation 1 for each latent channel over `images`, in place; reconstructions stay as they are."""
    latents = torch.cat([vae.encode(_to_tensor(part)).latent_dist.mode() for part in np.array_split(images, 16)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    before, after = vae.quant_conv, vae.post_quant_conv
    before.weight[:channels] /= std.view(-1, 1, 1, 1)
    before.bias[:channels] = (before.bias[:channels] - mean) / std
    before.bias[channels:] -= 2 * std.log()
    after.bias += (after.weight[:, :, 0, 0] * mean).sum(1)
    after.weight *= std.view(1, -1, 1, 1)


def _initialised(settings: VAERecipe) -> "AutoencoderKL":
    torch.manual_seed(settings.seed)
    return tiny_vae(settings.shape)


def _batch(settings: VAERecipe, step: int) -> Tensor:
    """Images uint8 [B, 64, 64, 3] number `step`: targets, sources and flawed edits of ever new tasks."""
    world = World("train", seed=settings.seed, kept_out="include")
    rng = np.random.default_rng([settings.seed, step])
    images: list[np.ndarray] = []
    for row in range(settings.batch):
        task = world.task(step * settings.batch + row)
        if rng.random() < settings.flawed:
            images.append(world.flawed_target(task).image)
        else:
            images.append(task.target_image if row % 2 else task.source_image)
    return torch.from_numpy(np.stack(images))


def _loss_of(settings: VAERecipe) -> Any:
    def loss(vae: nn.Module, images: Tensor) -> Loss:
        pixels = _to_tensor(images)
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.sample()).sample.float()
        difference = (decoded - pixels) / 2  # in units of [0, 1]
        weights = _edge_weights(pixels, settings.edges)
        l1, squared = (weights * difference.abs()).mean(), (weights * difference.square()).mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        parts = {"l1": float(difference.detach().abs().mean()), "kl": float(kl.detach())}
        return Loss(l1 + settings.mse * squared + settings.kl * kl, parts)

    return loss


def _edge_weights(pixels: Tensor, strength: float) -> Tensor:
    """[B, 1, H, W], mean 1: higher where the 5x5 neighbourhood varies."""
    mean = nn.functional.avg_pool2d(pixels, 5, 1, 2, count_include_pad=False)
    square = nn.functional.avg_pool2d(pixels.square(), 5, 1, 2, count_include_pad=False)
    weights = 1 + strength * (square - mean.square()).clamp_min(0).sum(1, keepdim=True).sqrt()
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def _to_tensor(images: np.ndarray | Tensor | Sequence[np.ndarray]) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.as_tensor(np.asarray(images)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
