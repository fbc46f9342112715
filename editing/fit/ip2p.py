"""Training the tiny InstructPix2Pix of the shapes world: recipe `tiny-ip2p`.

Denoising diffusion: y = sqrt(a) x0 + sqrt(1 - a) eps at a random timestep, the U-Net predicts eps (or v) from y, the
source's latents (unscaled, on extra channels) and the instruction; loss = mean squared error. The text encoder learns
along. So that the editor can be guided, a share of the rows has an empty instruction, an empty source, or both.
Targets are flawed on purpose, as for the tiny Kontext editor (`editing.fit.editor`).

    mmreward train tiny-ip2p --out runs/ip2p          # writes runs/ip2p/model

(Ho et al., 2020, https://arxiv.org/abs/2006.11239; Brooks et al., 2022, https://arxiv.org/abs/2211.09800.)
"""

__all__ = ["IP2PRecipe", "IP2PTraining", "run"]

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

from editing.attention import training_attention
from editing.fit.export import Told, write_editor
from editing.fit.held_out import HeldOut
from editing.fit.tiny import world_words
from editing.fit.tiny_ip2p import UNetShape, tiny_ip2p_pipeline
from editing.fit.triplets import KINDS, encoded_once, pixels, world_triplets
from editing.fit.vae import load_vae
from mmreward.shapes import Task, World
from mmreward.training import ConfigError, FitResult, LoopConfig, Loss, fit, read_config

if TYPE_CHECKING:
    from editing.editors.instruct_pix2pix import InstructPix2PixEditor


class IP2PRecipe(BaseModel, extra="forbid", frozen=True):
    """Settings of the recipe."""

    task: Literal["ip2p"] = "ip2p"
    vae: str = "tiny"
    """Folder of a trained autoencoder, or of a pipeline that has one; "tiny": the bundled editor's."""
    shape: UNetShape = UNetShape()
    start: str | None = None
    """An editor to go on from ("tiny-ip2p" or a folder); it brings its own autoencoder, shape, guidance and steps
    (options in its name change the last two: "FOLDER?steps=4"). None starts from nothing."""
    loop: LoopConfig
    batch: int = 64
    triplets: int = 50_000
    flawed: float = 0.33
    """Share of flawed targets."""
    kinds: tuple[str, ...] = KINDS
    dropped: float = Field(default=0.05, ge=0, le=1 / 3)
    """Share of rows without the instruction, of rows without the source, and of rows without both."""
    guidance: float = 1.0
    """Of the exported editor; 1 or less: one pass of the network a step instead of three."""
    image_guidance: float = Field(default=1.0, ge=1)
    steps: int = 8
    """Sampling steps of the exported editor."""
    seed: int = 0
    checked: int = 512
    """Validation scenes that the averaged weights are measured on."""
    checked_minutes: float = 5.0

    @property
    def held_out(self) -> HeldOut:
        return HeldOut(self.kinds, self.checked, self.steps)


class IP2PTraining(nn.Module):
    """The two networks that learn."""

    def __init__(self, editor: "InstructPix2PixEditor") -> None:
        super().__init__()
        self.unet, self.text_encoder = editor.module, editor.pipeline.text_encoder
        self.requires_grad_(True)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The network's prediction, float32 [B, channels, h, w]."""
        seen = torch.cat([batch["noisy"], batch["source"]], dim=1)
        # in here, not around the compiled module, which takes twice as long then
        with training_attention(seen.device):
            text = self.text_encoder(batch["ids"])[0]
            return self.unet(seen, batch["timestep"], encoder_hidden_states=text, return_dict=False)[0].float()


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Trains, measures every few minutes (`folder`/held_out.jsonl) and writes `folder`/model."""
    settings = read_config(IP2PRecipe, recipe, "the recipe of task 'ip2p'")
    folder = Path(folder)
    editor = _editor(settings)
    triplets = _triplets(editor, settings, folder / "triplets.safetensors")
    module = IP2PTraining(editor)
    result = fit(
        module,
        lambda step: _batch(settings, editor, triplets, step),
        _loss,
        settings.loop,
        folder,
        resume=resume,
        on_log=settings.held_out.watching(folder, settings.checked_minutes, lambda: _pair(settings)),
        title="editor",
    )
    module.load_state_dict(result.ema_state or module.state_dict())
    told = _told(editor, settings, result)
    print(write_editor(editor, settings.held_out, told, folder / "model", dtype=torch.bfloat16))


def _told(editor: "InstructPix2PixEditor", settings: IP2PRecipe, result: FitResult) -> Told:
    return Told(
        name="tiny-ip2p",
        summary=(
            "An InstructPix2Pix pipeline of the tiniest size, for 64x64 images of the shapes world. Its training data "
            "was flawed on purpose, so that there is something left to learn from rewards. With diffusers itself, call "
            f"it with `guidance_scale={editor.guidance}, image_guidance_scale={editor.image_guidance}`."
        ),
        data=(
            f"{result.steps * settings.batch:,} samples of {settings.triplets:,} triplets of the train split "
            f"({', '.join(settings.kinds)}; {settings.flawed:.0%} with a flawed target on purpose"
            f"{'; continued from an earlier run' if settings.start else ''})"
        ),
        command="mmreward train tiny-ip2p",
        seconds=result.seconds,
    )


def _editor(settings: IP2PRecipe) -> "InstructPix2PixEditor":
    """The editor to go on from, or an untrained one around the trained autoencoder."""
    from editing.editors.instruct_pix2pix import InstructPix2PixEditor

    if settings.start is not None:
        return _started(settings.start)
    torch.manual_seed(settings.seed)
    pipeline = tiny_ip2p_pipeline(load_vae(settings.vae), world_words(), settings.shape)
    pipeline.set_progress_bar_config(disable=True)
    return InstructPix2PixEditor(
        pipeline,
        name="tiny-ip2p",
        guidance=settings.guidance,
        image_guidance=settings.image_guidance,
        max_area=64 * 64,
        steps=settings.steps,
    )


def _started(folder: str) -> "InstructPix2PixEditor":
    from editing.editors import load_editor
    from editing.editors.instruct_pix2pix import InstructPix2PixEditor

    editor = load_editor(folder)
    if not isinstance(editor, InstructPix2PixEditor) or editor.is_xl:
        raise ConfigError(f"start: {folder} is no InstructPix2Pix of the SD 1.5 form; this recipe trains nothing else")
    return editor


def _pair(settings: IP2PRecipe) -> tuple["InstructPix2PixEditor", IP2PTraining]:
    editor = _editor(settings)
    return editor, IP2PTraining(editor)


def _triplets(editor: "InstructPix2PixEditor", settings: IP2PRecipe, file: Path) -> dict[str, Tensor]:
    """Raw latents `source` and `target`, bfloat16 [N, channels, 8, 8], and `ids`, int16 [N, max_tokens]; encoded once
    and kept in `file`.
    """

    def encode(chunk: tuple[list[Task], list[np.ndarray]]) -> dict[str, Tensor]:
        tasks, targets = chunk
        latents = {"source": _latents(editor, [t.source_image for t in tasks]), "target": _latents(editor, targets)}
        return {**latents, "ids": _ids(editor, [task.instruction for task in tasks])}

    world = World("train", seed=settings.seed, kinds=settings.kinds)
    return encoded_once(file, world_triplets(world, settings.triplets, settings.flawed), encode, settings.triplets)


@torch.no_grad()
def _latents(editor: "InstructPix2PixEditor", images: Sequence[np.ndarray]) -> Tensor:
    seen = pixels(images)
    with torch.autocast(seen.device.type, dtype=torch.bfloat16):
        return editor.pipeline.vae.encode(seen).latents.to(torch.bfloat16).contiguous()


def _ids(editor: "InstructPix2PixEditor", instructions: list[str]) -> Tensor:
    """Token ids as the pipeline makes them."""
    tokenizer = editor.pipeline.tokenizer
    length = tokenizer.model_max_length
    made = tokenizer(instructions, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return made.input_ids.to(torch.int16)


def _batch(
    settings: IP2PRecipe, editor: "InstructPix2PixEditor", triplets: dict[str, Tensor], step: int
) -> dict[str, Tensor]:
    """Batch number `step`: random triplets, timesteps, noise and empty conditions."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    rows = torch.randint(len(triplets["ids"]), (settings.batch,), generator=generator)
    source, ids = triplets["source"][rows].float(), triplets["ids"][rows].long()
    target = triplets["target"][rows].float() * editor.pipeline.vae.config.scaling_factor
    table = editor.pipeline.scheduler.alphas_cumprod
    timestep = torch.randint(len(table), (settings.batch,), generator=generator)
    eps = torch.randn(target.shape, generator=generator)
    drawn, share = torch.rand(settings.batch, generator=generator), settings.dropped
    ids[drawn < 2 * share] = _ids(editor, [""]).long()
    source[(drawn >= share) & (drawn < 3 * share)] = 0
    bar = table[timestep].view(-1, 1, 1, 1)
    signal, noise = bar.sqrt(), (1 - bar).sqrt()
    wanted = eps if editor.prediction == "epsilon" else signal * eps - noise * target
    noisy = signal * target + noise * eps
    return {"noisy": noisy, "source": source, "ids": ids, "timestep": timestep, "wanted": wanted}


def _loss(module: nn.Module, batch: dict[str, Tensor]) -> Loss:
    return Loss((module(batch) - batch["wanted"]).square().mean())
