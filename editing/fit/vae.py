"""Training the tiny autoencoder of the shapes world: recipe `tiny-vae`.

The encoder is linear and needs no training: the principal components of 8x8 patches, put into its five convolutions
in closed form (three that move pixels into channels, one that projects). Each component is divided by the square root
of its deviation, so that coarse ones stay stronger than fine ones. The decoder learns by

    loss = weighted L1 + `mse` x weighted squared error      (pixels in [0, 1]; weights are higher near edges)

with a little noise on the latents, which keeps it tolerant of what a diffusion model will hand it. What counts is not
the error but whether a reconstruction still shows the same scene: the oracle's success of reconstructed true targets
is the ceiling for any editor on top. It is measured on validation scenes and stored.

    mmreward train tiny-vae --out runs/vae          # writes runs/vae/model
"""

__all__ = ["VAERecipe", "load_vae", "reconstruct", "reconstruction_success", "run", "set_principal_encoder"]

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from editing.fit.card import write_card
from editing.fit.tiny import VAEShape, tiny_vae
from mmreward.assets import model_folder
from mmreward.shapes import WORLD_VERSION, World, read, truth
from mmreward.training import LoopConfig, Loss, fit, read_config, save_atomic

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny

_DEVIATION = 1 / 3
"""Of the raw latents: the decoder squashes its input softly beyond 3."""


class VAERecipe(BaseModel, extra="forbid", frozen=True):
    """Settings of the recipe."""

    task: Literal["vae"] = "vae"
    start: str | None = None
    """An autoencoder whose decoder is trained on: its folder, that of a pipeline, or "tiny"; None starts anew."""
    shape: VAEShape = VAEShape()
    loop: LoopConfig
    batch: int = 16
    flawed: float = 0.15
    """Share of images with flaws (artefacts too), so that the editor's flawed targets are inside the domain."""
    mse: float = 5.0
    edges: float = 4.0
    noise: float = 0.01
    """Deviation of the noise on the raw latents in training."""
    patches_of: int = 3000
    """Images for the principal components."""
    seed: int = 0
    checked: int = 512
    """Validation scenes for the ceiling."""


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Trains the decoder, measures and writes `folder`/model."""
    settings = read_config(VAERecipe, recipe, "the recipe of task 'vae'")
    vae = _begun(settings)
    result = fit(
        vae,
        lambda step: _batch(settings, step),
        _loss_of(settings),
        settings.loop,
        Path(folder),
        resume=resume,
        title="decoder",
    )
    vae.load_state_dict(result.ema_state or vae.state_dict())
    ceiling = export(vae, settings, Path(folder) / "model", result.steps, result.seconds)
    print(f"{folder}/model: {ceiling:.1%} of reconstructed targets are a success by the oracle")


def export(vae: "AutoencoderTiny", settings: VAERecipe, out: Path, steps: int, seconds: float) -> float:
    """Measures the ceiling of the weights as stored, in bfloat16, and writes the model; returns the ceiling."""
    stored = _rounded(vae)
    ceiling = reconstruction_success(stored, World("validation", kept_out="include"), settings.checked)

    def write(partial: Path) -> None:
        _rounded(vae).to(torch.bfloat16).save_pretrained(partial)
        about = {
            "name": "tiny-vae",
            "domain": "shapes",
            "world_version": WORLD_VERSION,
            "data": f"{steps * settings.batch:,} rendered scenes of the train split, {settings.flawed:.0%} with flaws",
            "command": "mmreward train tiny-vae",
            "minutes": round(seconds / 60, 1),
            "numbers": {f"success of reconstructions ({settings.checked} validation scenes)": round(ceiling, 4)},
        }
        write_card(partial, about, "An autoencoder (8x8 latents from 64x64 pixels) for images of the shapes world.")

    save_atomic(out, write)
    return ceiling


def load_vae(folder: str) -> "AutoencoderTiny":
    """The autoencoder in a folder, its own or a pipeline's ("tiny": the bundled editor's), as float32."""
    from diffusers import AutoencoderTiny

    root = model_folder("tiny-editor") if folder == "tiny" else Path(folder)
    root = root / "vae" if (root / "vae" / "config.json").is_file() else root
    if not (root / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is no trained autoencoder; make one with `mmreward train tiny-vae`")
    return AutoencoderTiny.from_pretrained(root, use_safetensors=True, dtype=torch.float32)


@torch.no_grad()
def set_principal_encoder(vae: "AutoencoderTiny", images: np.ndarray) -> None:
    """Makes the encoder project 8x8 patches on their principal components over `images` uint8 [N, H, W, 3]."""
    count = vae.config.latent_channels
    rows, columns = images.shape[1] // 8, images.shape[2] // 8
    patches = (images / 255.0).reshape(-1, rows, 8, columns, 8, 3).swapaxes(2, 3).reshape(-1, 192)
    mean = patches.mean(0)
    variances, vectors = np.linalg.eigh(np.cov(patches - mean, rowvar=False))
    vectors = vectors[:, ::-1][:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(count)])  # one sign on every machine
    projection = vectors / variances[::-1][:count] ** 0.25
    projection *= _DEVIATION / np.sqrt((((patches - mean) @ projection) ** 2).mean())

    enter, first, second, third, leave = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d)]
    for layer in (enter, first, second, third, leave):
        nn.init.zeros_(layer.weight)
    enter.weight[range(3), range(3), 1, 1] = 1
    for layer, channels in ((first, 3), (second, 12)):  # each moves 2x2 pixels into channels
        for offset in range(4):
            own = torch.arange(channels)
            layer.weight[offset * channels + own, own, 1 + offset // 2, 1 + offset % 2] = 1
    # The third sees 2x2 positions (a) of second-level offsets (b) of first-level offsets (c) of colours.
    weights = (
        torch.from_numpy(projection.T.copy()).float().view(count, 2, 2, 2, 2, 2, 2, 3)
    )  # k, ay by cy ax bx cx, rgb
    third.weight[:count, :48, 1:, 1:] = weights.permute(0, 2, 5, 3, 6, 7, 1, 4).reshape(count, 48, 2, 2)
    leave.weight[range(count), range(count), 1, 1] = 1
    assert enter.bias is not None and leave.bias is not None
    enter.bias.zero_()
    leave.bias.copy_(torch.from_numpy(-mean @ projection))
    vae.register_to_config(scaling_factor=1 / _DEVIATION, shift_factor=0.0)


@torch.no_grad()
def reconstruct(vae: "AutoencoderTiny", images: np.ndarray, batch: int = 64) -> np.ndarray:
    """uint8 [N, H, W, 3] through the autoencoder and back."""
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    pixels = torch.cat([vae.decode(vae.encode(_to_tensor(part)).latents).sample for part in parts])
    return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def reconstruction_success(vae: "AutoencoderTiny", world: World, count: int) -> float:
    """Share of true targets whose reconstruction the oracle still calls a success."""
    tasks = [world.task(index) for index in range(count)]
    readings = read(reconstruct(vae, np.stack([task.target_image for task in tasks])))
    return float(
        np.mean([truth(task.source, task.changes, r).success for task, r in zip(tasks, readings, strict=True)])
    )


def _begun(settings: VAERecipe) -> "AutoencoderTiny":
    """The autoencoder to train, its encoder finished and frozen."""
    torch.manual_seed(settings.seed)
    if settings.start is not None:
        vae = load_vae(settings.start)
    else:
        vae = tiny_vae(settings.shape)
        world = World("train", seed=settings.seed + 9, kept_out="include")
        set_principal_encoder(vae, np.stack([world.task(i).target_image for i in range(settings.patches_of)]))
    vae.encoder.requires_grad_(False)
    return vae.to(memory_format=torch.channels_last)


def _rounded(vae: "AutoencoderTiny") -> "AutoencoderTiny":
    """A float32 copy with the weights that bfloat16 leaves."""
    from diffusers import AutoencoderTiny

    copy = AutoencoderTiny.from_config(vae.config)
    copy.load_state_dict({name: value.to(torch.bfloat16).float() for name, value in vae.state_dict().items()})
    return copy.eval().requires_grad_(False)


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


def _loss_of(settings: VAERecipe) -> Callable[[nn.Module, Tensor], Loss]:
    def loss(vae: Any, images: Tensor) -> Loss:
        pixels = _to_tensor(images).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(pixels).latents
        decoded = vae.decode(latents + settings.noise * torch.randn_like(latents)).sample
        difference = (decoded.float() - pixels) / 2
        weights = _edge_weights(pixels, settings.edges)
        l1, squared = (weights * difference.abs()).mean(), (weights * difference.square()).mean()
        return Loss(l1 + settings.mse * squared, {"rms": float(difference.detach().square().mean().sqrt())})

    return loss


def _edge_weights(pixels: Tensor, strength: float) -> Tensor:
    """[B, 1, H, W], mean 1: higher where the 5x5 neighbourhood varies."""
    mean = nn.functional.avg_pool2d(pixels, 5, 1, 2)
    variance = nn.functional.avg_pool2d(pixels.square(), 5, 1, 2) - mean.square()
    weights = 1 + strength * variance.clamp_min(0).sum(1, keepdim=True).sqrt()
    return weights / weights.mean()


def _to_tensor(images: np.ndarray | Tensor | Sequence[np.ndarray]) -> Tensor:
    """uint8 [N, H, W, 3] to float32 [N, 3, H, W] in [-1, 1]."""
    return torch.as_tensor(np.asarray(images)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
