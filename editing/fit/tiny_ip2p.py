"""A `StableDiffusionInstructPix2PixPipeline` small enough to train on a laptop: untrained parts, real architecture.

The autoencoder and the words are those of the tiny Kontext editor (`editing.fit.tiny`), so the two differ in the
network and in what it learns: a U-Net that predicts the noise of 8x8 latents, beside a transformer that predicts a
velocity.
"""

__all__ = ["UNetShape", "tiny_ip2p_pipeline"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from editing.fit.tiny import tiny_clip_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, StableDiffusionInstructPix2PixPipeline


class UNetShape(BaseModel, extra="forbid", frozen=True):
    """Size of the U-Net and of the text encoder, and what the network predicts."""

    widths: tuple[int, ...] = (128, 192)
    """Channels at the latents' resolution and at each half of it; multiples of 16. Every level has attention."""
    blocks: int = 1
    """Residual blocks a level, down; one more up."""
    heads: int = 4
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 4
    max_tokens: int = 16
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"


def tiny_ip2p_pipeline(
    vae: "AutoencoderTiny", words: Sequence[str], shape: UNetShape
) -> "StableDiffusionInstructPix2PixPipeline":
    """An untrained editor around a (trained) autoencoder."""
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = tiny_clip_tokenizer(words, shape.max_tokens)
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text_width,
        intermediate_size=4 * shape.text_width,
        projection_dim=shape.text_width,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        max_position_embeddings=shape.max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    channels = vae.config.latent_channels
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=2 * channels,
        out_channels=channels,
        block_out_channels=shape.widths,
        down_block_types=("CrossAttnDownBlock2D",) * len(shape.widths),
        up_block_types=("CrossAttnUpBlock2D",) * len(shape.widths),
        layers_per_block=shape.blocks,
        norm_num_groups=16,
        attention_head_dim=shape.heads,  # diffusers takes the number of heads under this name
        cross_attention_dim=shape.text_width,
    )
    return StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            timestep_spacing="trailing",
            prediction_type=shape.prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
