"""Training the tiny editor of the shapes world from nothing: recipe `tiny-editor`.

Flow matching: x_t = (1 - t) x0 + t eps, the transformer predicts v = eps - x0 from x_t, the source's latents and the
instruction; loss = mean |v - prediction|², t = sigmoid(normal). The text encoders learn along with the transformer.
A share of the targets is flawed on purpose, from the beginning: an editor whose failures are varied is what
reinforcement learning can improve, and what the bundled judge must be able to tell from a good one.

    mmreward train tiny-vae --out runs/vae
    mmreward train tiny-editor --out runs/editor --set vae=runs/vae/model      # writes runs/editor/model

(Liu et al., 2022, https://arxiv.org/abs/2209.03003; Esser et al., 2024, https://arxiv.org/abs/2403.03206.)
"""

__all__ = ["EditorRecipe", "EditorTraining", "export", "export_checkpoint", "run"]

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editing.fit.card import write_card
from editing.fit.success import EditorSuccess, editor_success
from editing.fit.tiny import EditorShape, tiny_pipeline
from editing.fit.triplets import Triplets, make_triplets
from editing.fit.vae import load_vae, reconstruction_success
from mmreward.shapes import WORLD_VERSION, World
from mmreward.training import LoopConfig, Loss, fit, load_checkpoint, read_config, save_atomic

if TYPE_CHECKING:
    from editing.editors.kontext import KontextEditor

KINDS = ("recolour", "remove", "add", "move", "background")


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
        on_log=_measuring(settings, folder),
        title="editor",
    )
    module.load_state_dict(result.ema_state or module.state_dict())
    print(export(editor, settings, folder / "model", result.steps, result.seconds))


def export(
    editor: "KontextEditor", settings: EditorRecipe, out: Path, steps: int, seconds: float, half_trained: bool = False
) -> EditorSuccess:
    """Writes `editor` in bfloat16 with its card; returns what the oracle says of the stored weights."""
    held: list[EditorSuccess] = []

    def write(partial: Path) -> None:
        from editing.editors.kontext import KontextEditor

        editor.save(partial, dtype=torch.bfloat16)
        held.append(_measure(KontextEditor.load(partial), settings))
        stored = json.loads((partial / "mmreward.json").read_text())
        length = "interim checkpoint" if half_trained else "whole recipe"
        about = {
            **stored,
            "name": "tiny-editor",
            "domain": "shapes",
            "world_version": WORLD_VERSION,
            "half_trained": half_trained,
            "data": (
                f"{steps * settings.batch:,} samples of {settings.triplets:,} triplets of the train split "
                f"({', '.join(settings.kinds)}; {settings.flawed:.0%} with a flawed target on purpose; {length}"
                f"{'; continued from an earlier run' if settings.start else ''})"
            ),
            "command": "mmreward train tiny-editor --set vae=VAE_FOLDER",
            "minutes": round(seconds / 60, 1),
            "numbers": held[0].numbers(settings.steps, _ceiling(editor, settings)),
        }
        summary = (
            "A FLUX Kontext pipeline of the tiniest size, for 64x64 images of the shapes world. Its training data was "
            "flawed on purpose, so that there is something left to learn from rewards. With diffusers itself, call it "
            f"with `max_area=4096, _auto_resize=False, max_sequence_length={settings.shape.max_tokens}, "
            f"guidance_scale={editor.guidance}`."
        )
        write_card(partial, about, summary)

    save_atomic(out, write)
    return held[0]


def export_checkpoint(recipe: dict[str, Any], folder: Path, out: Path, half_trained: bool = True) -> EditorSuccess:
    """The averaged weights of the newest checkpoint of a run, as an editor; a run that goes on is half-trained."""
    settings = read_config(EditorRecipe, recipe, "the recipe of task 'editor'")
    found = load_checkpoint(Path(folder))
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint yet")
    editor = _editor(settings)
    _load(EditorTraining(editor), found.tensors)
    return export(editor, settings, out, found.step, found.state["seconds"], half_trained)


def _editor(settings: EditorRecipe) -> "KontextEditor":
    """An untrained editor around the trained autoencoder, or the one to go on from."""
    from editing.editors import load_editor
    from editing.editors.kontext import KontextEditor

    if settings.start is not None:
        started = load_editor(settings.start)
        assert isinstance(started, KontextEditor)
        return started
    torch.manual_seed(settings.seed)
    pipeline = tiny_pipeline(load_vae(settings.vae), _words(), settings.shape)
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {
        "guidance": 1.0,
        "max_area": 64 * 64,
        "max_tokens": settings.shape.max_tokens,
        "steps": settings.steps,
    }
    return KontextEditor(pipeline, name="tiny-editor", **options)


def _words() -> list[str]:
    """The world's vocabulary, from what it says."""
    world = World("train", seed=0, kept_out="include")
    texts = [world.task(index).instruction for index in range(3000)]
    return sorted({word for text in texts for word in text.lower().replace(".", " ").replace(",", " ").split()})


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
    # On a CPU the backward pass of fused attention in bfloat16 takes half of a step; plain products are faster.
    with sdpa_kernel(SDPBackend.MATH):
        return Loss((module(batch) - batch["v"]).square().mean())


def _measuring(settings: EditorRecipe, folder: Path) -> Callable[[dict[str, Any]], None]:
    """Measures the averaged weights of each new checkpoint, at most every `checked_minutes`."""
    editor = _editor(settings)
    copy_of = EditorTraining(editor)
    last = {"seconds": 0.0}

    def on_log(entry: dict[str, Any]) -> None:
        if entry["seconds"] - last["seconds"] < 60 * settings.checked_minutes:
            return
        found = load_checkpoint(folder)
        if found is None or found.state["seconds"] <= last["seconds"]:
            return
        last["seconds"] = entry["seconds"]
        _load(copy_of, found.tensors)
        editor.forget()
        held = _measure(editor, settings)
        print(f"step {found.step}: {held}", flush=True)
        row = {"step": found.step, "seconds": found.state["seconds"], "success": held.success, "overall": held.overall}
        with (folder / "held_out.jsonl").open("a") as file:
            file.write(json.dumps({**row, "by_kind": held.by_kind}) + "\n")

    return on_log


def _measure(editor: "KontextEditor", settings: EditorRecipe) -> EditorSuccess:
    world = World("validation", seed=settings.seed, kinds=settings.kinds)
    return editor_success(editor, [world.task(index) for index in range(settings.checked)], settings.steps)


def _ceiling(editor: "KontextEditor", settings: EditorRecipe) -> float:
    world = World("validation", seed=settings.seed, kinds=settings.kinds)
    return reconstruction_success(editor.pipeline.vae, world, settings.checked)


def _load(module: EditorTraining, tensors: dict[str, dict[str, Tensor]]) -> None:
    state = copy.copy(tensors["weights"])
    state.update(tensors.get("ema", {}))
    module.load_state_dict(state)
