"""The shapes of networks, for a dry run of editors that are too large to load: what a network is given for an image,
and what is published about a few models, so that their recipes can be weighed before they are here.

A family without an outline has parameters all the same, but no work and no memory of a forward pass.
"""

__all__ = ["OUTLINES", "PUBLISHED", "Outline", "Published"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Size = tuple[int, int]
_REDUCTION = 8
"""Pixels to latents, of all autoencoders here."""
_CLIP_TOKENS = 77
_TEMPLATE_TOKENS = 30
"""About what an instruction has beside its image in Qwen's text encoder."""
_QWEN_PATCH = 28
"""Pixels to a visual token of that encoder."""


@dataclass(frozen=True)
class Outline:
    """What one row of a network's batch is, on torch's meta device."""

    inputs: Callable[[Any, Size, Mapping[str, Any], torch.dtype], dict[str, Any]] | None = None
    """(configuration, image size, the adapter's options, dtype) -> keyword arguments; None: not known."""
    latent: Callable[[Any, Size], tuple[int, int] | None] = lambda config, size: None
    """Tokens and channels of the latents."""
    targets: Callable[[Any, Any], tuple[str, ...]] = lambda adapter, network: tuple(adapter.lora_targets)
    """(adapter, network) -> the layers that LoRA adapts."""
    passes: Callable[[Mapping[str, Any]], int] = lambda options: 1
    """Passes of the network in one prediction."""
    repeated: tuple[str, ...] = ()
    """Settings that say how many blocks of a kind there are."""


@dataclass(frozen=True)
class Published:
    """`config` is what differs from the defaults of diffusers' class, `others` the parameters of the other parts."""

    family: str
    network: str
    config: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, int | None] = field(default_factory=dict)


def _made(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def _patches(size: Size) -> int:
    return size[0] * size[1] // (2 * _REDUCTION) ** 2


def _flux(config: Any, size: Size, options: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    image, text = 2 * _patches(size), int(options["max_tokens"])
    return {
        "hidden_states": _made(1, image, config.in_channels, dtype=dtype),
        "timestep": _made(1, dtype=dtype),
        "guidance": _made(1, dtype=dtype) if config.guidance_embeds else None,
        "pooled_projections": _made(1, config.pooled_projection_dim, dtype=dtype),
        "encoder_hidden_states": _made(1, text, config.joint_attention_dim, dtype=dtype),
        "txt_ids": _made(text, 3, dtype=torch.float32),
        "img_ids": _made(image, 3, dtype=torch.float32),
        "return_dict": False,
    }


def _qwen(config: Any, size: Size, options: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    text = int(options["text_area"] or 384 * 384) // _QWEN_PATCH**2 + _TEMPLATE_TOKENS
    shape = (1, size[0] // (2 * _REDUCTION), size[1] // (2 * _REDUCTION))
    return {
        "hidden_states": _made(1, 2 * _patches(size), config.in_channels, dtype=dtype),
        "timestep": _made(1, dtype=dtype),
        "encoder_hidden_states": _made(1, text, config.joint_attention_dim, dtype=dtype),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[shape, shape]],
        "return_dict": False,
    }


def _qwen_targets(adapter: Any, network: Any) -> tuple[str, ...]:
    from editing.editors.qwen_image_edit import _targets

    return _targets(network)


def _unet(config: Any, size: Size, options: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    grid = tuple(side // _REDUCTION for side in size)
    given: dict[str, Any] = {
        "sample": _made(1, config.in_channels, *grid, dtype=dtype),
        "timestep": _made(1, dtype=torch.long),
        "encoder_hidden_states": _made(1, _CLIP_TOKENS, config.cross_attention_dim, dtype=dtype),
        "return_dict": False,
    }
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        given["added_cond_kwargs"] = {
            "text_embeds": _made(1, pooled, dtype=dtype),
            "time_ids": _made(1, 6, dtype=dtype),
        }
    return given


OUTLINES: dict[str, Outline] = {
    "FluxTransformer2DModel": Outline(
        _flux,
        lambda config, size: (_patches(size), config.in_channels),
        repeated=("num_layers", "num_single_layers"),
    ),
    "QwenImageTransformer2DModel": Outline(
        _qwen,
        lambda config, size: (_patches(size), config.in_channels),
        targets=_qwen_targets,
        passes=lambda options: 2 if options["guidance"] > 1 else 1,
        repeated=("num_layers",),
    ),
    "UNet2DConditionModel": Outline(
        _unet,
        lambda config, size: (size[0] * size[1] // _REDUCTION**2, config.out_channels),
        passes=lambda options: 3 if options["guidance"] > 1 else 1,
    ),
}
"""Class of the network -> its outline."""

_CLIP_TEXT, _T5_XXL, _QWEN_VL_7B = 123_060_480, 4_762_310_656, 8_292_166_656
_QWEN = Published(
    "QwenImageEditPlusPipeline",
    "QwenImageTransformer2DModel",
    others={"vae": 126_892_531, "text_encoder": _QWEN_VL_7B},
)

PUBLISHED: dict[str, Published] = {
    "black-forest-labs/FLUX.1-Kontext-dev": Published(
        "FluxKontextPipeline",
        "FluxTransformer2DModel",
        {"guidance_embeds": True},
        {"vae": 83_819_683, "text_encoder": _CLIP_TEXT, "text_encoder_2": _T5_XXL},
    ),
    "Qwen/Qwen-Image-Edit": Published("QwenImageEditPipeline", _QWEN.network, others=_QWEN.others),
    "Qwen/Qwen-Image-Edit-2509": _QWEN,
    "Qwen/Qwen-Image-Edit-2511": _QWEN,
    "timbrooks/instruct-pix2pix": Published(
        "StableDiffusionInstructPix2PixPipeline",
        "UNet2DConditionModel",
        {"in_channels": 8, "cross_attention_dim": 768, "attention_head_dim": 8, "sample_size": 64},
        {"vae": 83_653_863, "text_encoder": _CLIP_TEXT},
    ),
}
"""Hub id -> its shape."""
