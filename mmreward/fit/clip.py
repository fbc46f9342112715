"""Train a small open_clip model on the shapes world, fit its maps, and export it as a folder.

The loss is the sum of

- contrastive: InfoNCE between all images and captions of a batch (Radford et al., Learning Transferable Visual Models
  From Natural Language Supervision, 2021), where equal scenes are all positives of each other;
- direction: within a group, the image delta to the source against the text deltas of the group's members (the
  directional similarity of Gal et al., StyleGAN-NADA, 2021, made contrastive), so that cos(I1 - I0, T1 - T0) means
  what the reward reads from it;
- instruction: within a group, the instruction against the images, positives being those that do what it asks;
- dense: training-only linear heads predict what is in each place, from the image tokens, and from both embeddings by
  one head that they share. The heads are not exported.

    mmreward train tiny-clip --out runs/tiny-clip
"""

from __future__ import annotations

__all__ = ["ClipRecipe", "run"]

import contextlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor, nn

from mmreward.fit.clip_data import Batch, build_tokenizer, make_batch
from mmreward.shapes import BACKGROUND_COLOURS, BACKGROUND_KINDS, COLOURS, SHAPES, SIZES, World
from mmreward.training import Group, LoopConfig, Loss, fit, read_config

CONTEXT = 56
"""Tokens of the longest caption (five shapes), with room."""
_ATTRIBUTES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + len(SIZES))
_GROUNDS = (len(BACKGROUND_KINDS), len(BACKGROUND_COLOURS))
_PLACES = 9


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """Sizes of the two towers. Heads of attention are 64 wide."""

    image_size: int = 64
    patch: int = 8
    vision_width: int = 192
    vision_layers: int = 5
    text_width: int = 128
    text_layers: int = 3
    embed: int = 256


class DataConfig(BaseModel, extra="forbid", frozen=True):
    groups: int = Field(default=8, ge=1)
    members: int = Field(default=16, ge=4)
    rough: float = Field(default=0.35, ge=0, le=1)
    seed: int = 0


class LossConfig(BaseModel, extra="forbid", frozen=True):
    """Weights of the parts beside the contrastive one."""

    direction: float = 0.5
    instruction: float = 0.5
    dense: float = 1.0


class MeasureConfig(BaseModel, extra="forbid", frozen=True):
    """How many tasks (16 candidates each) the maps are fitted on and the numbers of the card are taken from."""

    fit_tasks: int = Field(default=400, ge=2)
    test_tasks: int = Field(default=400, ge=2)


class ClipRecipe(BaseModel, extra="forbid", frozen=True):
    """A recipe with `task: clip`."""

    task: str = "clip"
    name: str = "tiny-clip"
    start: str | None = None
    """A model to go on from ("tiny" or a folder) in place of random weights; it must have the recipe's sizes."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig
    measure: MeasureConfig = MeasureConfig()


def run(recipe: dict[str, Any], folder: Path, resume: bool) -> None:
    """Train by `recipe`, with checkpoints in `folder`, then write the model to `folder/model`."""
    settings = read_config(ClipRecipe, recipe)
    torch.manual_seed(settings.loop.seed)
    tokenizer = build_tokenizer()
    config = model_config(settings.model, len(tokenizer))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainee = Trainee(config).to(device)
    if settings.start:
        _start_from(settings.start, trainee.clip)
    world = World("train", seed=settings.data.seed, size=settings.model.image_size)

    def tokenize(texts: list[str]) -> Tensor:
        padded = tokenizer(texts, max_length=CONTEXT, padding="max_length", truncation=True, return_tensors="pt")
        return padded["input_ids"]

    def batch_at(step: int) -> Batch:
        data = settings.data
        return make_batch(world, tokenize, step, data.groups, data.members, data.rough)

    with _quick_attention(device):
        result = fit(
            trainee,
            batch_at,
            lambda _, batch: _loss(trainee, batch, settings),
            settings.loop,
            Path(folder),
            resume=resume,
            parameter_groups=_parameter_groups(trainee, settings.loop),
            title=settings.name,
        )
    if result.ema_state is not None:
        trainee.load_state_dict(result.ema_state)
    from mmreward.fit.clip_export import export

    export(trainee.clip, config, tokenizer, settings, result.steps, result.seconds, Path(folder) / "model")


def _start_from(name: str, clip: nn.Module) -> None:
    from mmreward.rewards.clip_model import open_model

    try:
        clip.load_state_dict(open_model(name, "cpu").module.state_dict())
    except RuntimeError as error:
        raise ValueError(f"start: {name!r} does not have the sizes of this recipe's model ({error})") from None


def model_config(sizes: ModelConfig, vocabulary: int) -> dict[str, Any]:
    """The `model_cfg` of open_clip. `pool_type` "eos" needs `eos_id`; any non-empty tokenizer name means the folder."""
    return {
        "embed_dim": sizes.embed,
        "vision_cfg": {
            "image_size": sizes.image_size,
            "patch_size": sizes.patch,
            "width": sizes.vision_width,
            "layers": sizes.vision_layers,
            "head_width": 64,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary,
            "width": sizes.text_width,
            "heads": max(1, sizes.text_width // 64),
            "layers": sizes.text_layers,
            "pool_type": "eos",
            "pad_id": 0,
            "eos_id": 2,
            "hf_tokenizer_name": "tokenizer of this folder",
            "tokenizer_kwargs": {"split_special_tokens": True},
        },
    }


class Trainee(nn.Module):
    """The model, and the heads that exist in training only."""

    place_of_token: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from open_clip.model import CLIP

        self.clip = CLIP(**{key: dict(v) if isinstance(v, dict) else v for key, v in config.items()})
        self.clip.visual.output_tokens = True  # the export builds the model anew, without
        vision = config["vision_cfg"]
        side = vision["image_size"] // vision["patch_size"]
        rows = torch.arange(side) * 3 // side
        self.register_buffer("place_of_token", (rows[:, None] * 3 + rows[None, :]).flatten(), persistent=False)
        self.token_head = nn.Linear(vision["width"], sum(_ATTRIBUTES))
        self.ground_head = nn.Linear(vision["width"], sum(_GROUNDS))
        self.scene_head = nn.Linear(config["embed_dim"], _PLACES * sum(_ATTRIBUTES) + sum(_GROUNDS))

    def images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, H, W] to unit embeddings [B, D] and tokens [B, T, width]."""
        pooled, tokens = self.clip.visual((pixels.float() / 255 - 0.5) / 0.5)
        return F.normalize(pooled.float(), dim=-1), tokens

    def texts(self, ids: Tensor) -> Tensor:
        return F.normalize(self.clip.encode_text(ids).float(), dim=-1)


def _loss(trainee: Trainee, batch: Batch, settings: ClipRecipe) -> Loss:
    weights, groups = settings.loss, settings.data.groups
    image, tokens = trainee.images(batch.images)
    text = trainee.texts(torch.cat([batch.captions, batch.instructions]))
    text, instruction = text[: len(image)], text[len(image) :]
    with torch.autocast(image.device.type, enabled=False):  # similarities differ in digits that bfloat16 does not have
        scale = trainee.clip.logit_scale.clamp(max=4.6052).exp()
        logits = scale * image @ text.T
        same = batch.scenes[:, None] == batch.scenes[None, :]
        contrastive = (_positive_nll(logits, same) + _positive_nll(logits.T, same)) / 2

        by_group = (groups, -1, image.shape[-1])
        image_delta = F.normalize(image.view(by_group) - image.view(by_group)[:, :1], dim=-1, eps=1e-4)
        text_delta = F.normalize(text.view(by_group) - text.view(by_group)[:, :1], dim=-1, eps=1e-4)
        scenes = batch.scenes.view(groups, -1)
        alike = scenes[:, :, None] == scenes[:, None, :]
        changed = scenes != scenes[:, :1]  # deltas of untouched members are 0/0 and take no part
        delta_logits = (10.0 * image_delta @ text_delta.transpose(1, 2)).masked_fill(~changed[:, None, :], -1e4)
        direction = _positive_nll(delta_logits, alike, changed)

        wanted = batch.follows.view(groups, -1)
        instruction_logits = scale * torch.einsum("gd,gkd->gk", instruction, image.view(by_group))
        others = instruction_logits.masked_fill(wanted, -1e4).logsumexp(-1, keepdim=True)
        above = F.softplus(others - instruction_logits)  # each image that follows against all that do not
        instruct = above[wanted].mean()

    dense = _dense(trainee, batch, tokens, image, text)
    total = contrastive + weights.direction * direction + weights.instruction * instruct + weights.dense * dense
    hit = (same.gather(1, logits.argmax(1, keepdim=True))).float().mean()
    parts = {"contrastive": contrastive, "direction": direction, "instruction": instruct, "dense": dense, "hit": hit}
    return Loss(total, {name: float(value.detach()) for name, value in parts.items()})


def _positive_nll(logits: Tensor, positive: Tensor, rows: Tensor | None = None) -> Tensor:
    """Mean of -log(probability of all positives together) over the rows of [..., N], or those where `rows` is true."""
    chosen = logits.masked_fill(~positive, -1e4).logsumexp(-1)
    each = logits.logsumexp(-1) - chosen
    return each.mean() if rows is None else (each * rows).sum() / rows.sum().clamp(min=1)


def _dense(trainee: Trainee, batch: Batch, tokens: Tensor, image: Tensor, text: Tensor) -> Tensor:
    cells_of_tokens = batch.cells[:, trainee.place_of_token]
    loss = _attributes(trainee.token_head(tokens), cells_of_tokens)
    loss = loss + _split(trainee.ground_head(tokens.mean(1)), _GROUNDS, batch.ground)
    for embedding in (image, text):
        read = trainee.scene_head(12.0 * embedding)
        cells = read[:, : _PLACES * sum(_ATTRIBUTES)].view(len(read), _PLACES, -1)
        loss = loss + _attributes(cells, batch.cells) + _split(read[:, -sum(_GROUNDS) :], _GROUNDS, batch.ground)
    return loss / 3


def _attributes(logits: Tensor, cells: Tensor) -> Tensor:
    return _split(logits.flatten(0, 1), _ATTRIBUTES, cells.flatten(0, 1))


def _split(logits: Tensor, sizes: tuple[int, ...], labels: Tensor) -> Tensor:
    """Sum of the cross-entropies of several labels that share one vector of logits."""
    parts = logits.float().split(sizes, dim=-1)
    return torch.stack([F.cross_entropy(part, labels[:, i]) for i, part in enumerate(parts)]).sum()


def _parameter_groups(trainee: Trainee, loop: LoopConfig) -> list[Group]:
    """Muon, where asked for, for the matrices of the blocks (attention's joint projection too); AdamW for the rest."""
    named = list(trainee.named_parameters())
    matrices = [p for name, p in named if loop.optimizer == "muon" and "resblocks" in name and p.ndim == 2]
    chosen = {id(p) for p in matrices}
    return [Group(matrices, "muon"), Group([p for _, p in named if id(p) not in chosen])]


def _quick_attention(device: str) -> Any:
    """Plain matrix products for attention on a CPU: the fused kernel's backward takes twice as long there."""
    if device != "cpu":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
