"""Training the tiny editor of the shapes world from nothing: recipe `tiny-editor`.

Flow matching: x_t = (1 - t) x0 + t eps, the transformer predicts v = eps - x0 from x_t, the source's latents and the
instruction; loss = mean |v - prediction|², t = sigmoid(normal). The text encoders learn along with the transformer.
A share of the targets is flawed on purpose, from the beginning: an editor whose failures are varied is what
reinforcement learning can improve, and what the bundled judge must be able to tell from a good one.

    mmreward train tiny-vae --out runs/vae
    mmreward train tiny-editor --out runs/editor --set vae=runs/vae/model      # writes runs/editor/model

(Liu et al., 2022, https://arxiv.org/abs/2209.03003; Esser et al., 2024, https://arxiv.org/abs/2403.03206.)
"""

__all__ = ["KINDS", "EditorRecipe", "EditorTraining", "run"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from editing.attention import training_attention
from editing.fit.export import Told, write_editor
from editing.fit.held_out import HeldOut
from editing.fit.tiny import EditorShape, tiny_pipeline, world_words
from editing.fit.triplets import KINDS, Triplets, make_triplets
from editing.fit.vae import load_vae
from mmreward.shapes import World
from mmreward.training import ConfigError, FitResult, LoopConfig, Loss, fit, read_config

if TYPE_CHECKING:
    from editing.editors.kontext import KontextEditor


class EditorRecipe(BaseModel, extra="forbid", frozen=True):
    """Settings of the recipe."""

    task: Literal["editor"] = "editor"
    vae: str
    """Folder of a trained autoencoder, or of a pipeline that has one."""
    start: str | None = None
    """An editor to go on from ("tiny" or a folder; it brings its own autoencoder); None starts from nothing."""
    shape: EditorShape = EditorShape()
    loop: LoopConfig
    batch: int = 64
    triplets: int = 50_000
    flawed: float = 0.33
    """Share of flawed targets."""
    kinds: tuple[str, ...] = KINDS
    time_mean: float = 0.4
    time_std: float = 1.0
    """Noise levels are sigmoid(normal(time_mean, time_std))."""
    steps: int = 8
    """Sampling steps of the exported editor."""
    seed: int = 0
    checked: int = 512
    """Validation scenes that the averaged weights are measured on."""
    checked_minutes: float = 5.0

    @property
    def held_out(self) -> HeldOut:
        return HeldOut(self.kinds, self.checked, self.steps)


class EditorTraining(nn.Module):
    """The three networks that learn, with the flow-matching forward pass."""

    def __init__(self, editor: "KontextEditor") -> None:
        super().__init__()
        pipeline = editor.pipeline
        self.transformer, self.text_encoder, self.text_encoder_2 = (
            pipeline.transformer,
            pipeline.text_encoder,
            pipeline.text_encoder_2,
        )
        self.requires_grad_(True)
        size = (64, 64)
        self.register_buffer("image_ids", editor._position_ids(size), persistent=False)
        self.guidance = editor.guidance

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The predicted v, float32 [B, tokens, channels]."""
        noisy, source, text = batch["noisy"], batch["source"], batch["t5_ids"]
        v = self.transformer(
            hidden_states=torch.cat([noisy, source], dim=1),
            timestep=batch["t"],
            guidance=torch.full_like(batch["t"], self.guidance),
            pooled_projections=self.text_encoder(batch["clip_ids"]).pooler_output,
            encoder_hidden_states=self.text_encoder_2(text)[0],
            txt_ids=noisy.new_zeros(text.shape[1], 3),
            img_ids=self.image_ids,
            return_dict=False,
        )[0]
        return v[:, : noisy.shape[1]].float()


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Trains, measures every few minutes (`folder`/held_out.jsonl) and writes `folder`/model."""
    settings = read_config(EditorRecipe, recipe, "the recipe of task 'editor'")
    folder = Path(folder)
    editor = _editor(settings)
    world = World("train", seed=settings.seed, kinds=settings.kinds)
    triplets = make_triplets(editor, world, settings.triplets, settings.flawed, folder / "triplets.safetensors")
    module = EditorTraining(editor)
    result = fit(
        module,
        lambda step: _batch(settings, triplets, step),
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


def _told(editor: "KontextEditor", settings: EditorRecipe, result: FitResult) -> Told:
    return Told(
        name="tiny-editor",
        summary=(
            "A FLUX Kontext pipeline of the tiniest size, for 64x64 images of the shapes world. Its training data was "
            "flawed on purpose, so that there is something left to learn from rewards. With diffusers itself, call it "
            f"with `max_area=4096, _auto_resize=False, max_sequence_length={settings.shape.max_tokens}, "
            f"guidance_scale={editor.guidance}`."
        ),
        data=(
            f"{result.steps * settings.batch:,} samples of {settings.triplets:,} triplets of the train split "
            f"({', '.join(settings.kinds)}; {settings.flawed:.0%} with a flawed target on purpose"
            f"{'; continued from an earlier run' if settings.start else ''})"
        ),
        command="mmreward train tiny-editor --set vae=VAE_FOLDER",
        seconds=result.seconds,
    )


def _editor(settings: EditorRecipe) -> "KontextEditor":
    """An untrained editor around the trained autoencoder, or the one to go on from."""
    from editing.editors import load_editor
    from editing.editors.kontext import KontextEditor

    if settings.start is not None:
        started = load_editor(settings.start)
        if not isinstance(started, KontextEditor):
            raise ConfigError(f"start: {settings.start} is no FLUX Kontext; this recipe trains nothing else")
        return started
    torch.manual_seed(settings.seed)
    pipeline = tiny_pipeline(load_vae(settings.vae), world_words(), settings.shape)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "guidance": 1.0,
        "max_area": 64 * 64,
        "max_tokens": settings.shape.max_tokens,
        "steps": settings.steps,
    }
    return KontextEditor(pipeline, name="tiny-editor", **options)


def _pair(settings: EditorRecipe) -> tuple["KontextEditor", EditorTraining]:
    editor = _editor(settings)
    return editor, EditorTraining(editor)


def _batch(settings: EditorRecipe, triplets: Triplets, step: int) -> dict[str, Tensor]:
    """Batch number `step`: random triplets, noise levels and noise."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    batch = triplets.batch(torch.randint(len(triplets), (settings.batch,), generator=generator))
    t = torch.sigmoid(settings.time_mean + settings.time_std * torch.randn(settings.batch, generator=generator))
    eps = torch.randn(batch["target"].shape, generator=generator)
    level = t.view(-1, 1, 1)
    noisy = (1 - level) * batch["target"] + level * eps
    return {**batch, "t": t, "noisy": noisy, "v": eps - batch["target"]}


def _loss(module: nn.Module, batch: dict[str, Tensor]) -> Loss:
    with training_attention(batch["noisy"].device):
        return Loss((module(batch) - batch["v"]).square().mean())
