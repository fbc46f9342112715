"""A `FluxKontextPipeline` small enough to train on a laptop: untrained parts of the real architectures.

Nothing here is special to a small size but the numbers. The VAE reduces 8 times, so 64x64 pixels are 8x8 latents and
16 packed tokens. Both tokenizers have the words of the training world as single tokens and fall back to letters
(T5) or bytes (CLIP), so that any text can be read, if not understood.
"""

__all__ = [
    "EditorShape",
    "VAEShape",
    "tiny_clip_tokenizer",
    "tiny_pipeline",
    "tiny_t5_tokenizer",
    "tiny_vae",
    "world_words",
]

import json
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mmreward.shapes import World

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, FluxKontextPipeline
    from transformers import CLIPTokenizer, T5TokenizerFast


class VAEShape(BaseModel, extra="forbid", frozen=True):
    """Size of the autoencoder: convolutions and ReLUs, no normalisation, so that a CPU is fast at it. The encoder has
    convolutions only (see `editing.fit.vae`).
    """

    channels: int = 64
    """Width everywhere."""
    decoder_blocks: tuple[int, int, int, int] = (2, 2, 1, 0)
    """Residual blocks from an eighth of the resolution up."""
    latent_channels: int = 20


class EditorShape(BaseModel, extra="forbid", frozen=True):
    """Size of the transformer and of the two text encoders."""

    double_blocks: int = 2
    single_blocks: int = 2
    heads: int = 6
    head_dim: int = 32
    axes: tuple[int, int, int] = (4, 14, 14)
    """Rotary dimensions of (image index, row, column); their sum is head_dim."""
    text_width: int = 128
    text_layers: int = 1
    text_heads: int = 4
    pooled_width: int = 64
    max_tokens: int = 16


def tiny_vae(shape: VAEShape) -> "AutoencoderTiny":
    """An untrained autoencoder."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(shape.channels,) * 4,
        decoder_block_out_channels=(shape.channels,) * 4,
        num_encoder_blocks=(0, 0, 0, 0),
        num_decoder_blocks=shape.decoder_blocks,
        latent_channels=shape.latent_channels,
    )


def world_words() -> list[str]:
    """The vocabulary of the shapes world, from what it says."""
    world = World("train", seed=0, kept_out="include")
    texts = [world.task(index).instruction for index in range(3000)]
    return sorted({word for text in texts for word in text.lower().replace(".", " ").replace(",", " ").split()})


def tiny_t5_tokenizer(words: Sequence[str], max_tokens: int) -> "T5TokenizerFast":
    """Words (each with its leading space), then letters, digits and punctuation."""
    from transformers import T5TokenizerFast

    pieces = dict.fromkeys(["<pad>", "</s>", "<unk>"], 0.0)
    pieces |= {"▁" + word: -1.0 for word in words}
    pieces |= {"▁": -6.0} | {character: -8.0 for character in string.ascii_letters + string.digits + string.punctuation}
    pieces |= {"▁" + word.capitalize(): -1.0 for word in words}
    return T5TokenizerFast(vocab=list(pieces.items()), extra_ids=0, model_max_length=max_tokens)


def tiny_clip_tokenizer(words: Sequence[str], max_tokens: int) -> "CLIPTokenizer":
    """Byte-pair encoding, trained until each word is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = [*bytes_, *(character + "</w>" for character in bytes_)]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=1, end_of_word_suffix="</w>", initial_alphabet=bytes_, show_progress=False
    )
    learner.train_from_iterator(list(words), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens)


def tiny_pipeline(vae: "AutoencoderTiny", words: Sequence[str], shape: EditorShape) -> "FluxKontextPipeline":
    """An untrained editor around a (trained) autoencoder."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    tokenizer = tiny_clip_tokenizer(words, shape.max_tokens)
    tokenizer_2 = tiny_t5_tokenizer(words, shape.max_tokens)
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.pooled_width,
        intermediate_size=4 * shape.pooled_width,
        projection_dim=shape.pooled_width,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=shape.max_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(tokenizer_2),
        d_model=shape.text_width,
        d_kv=shape.text_width // shape.text_heads,
        d_ff=4 * shape.text_width,
        num_layers=shape.text_layers,
        num_heads=shape.text_heads,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        is_encoder_decoder=False,
        use_cache=False,
    )
    transformer = FluxTransformer2DModel(
        in_channels=4 * vae.config.latent_channels,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        attention_head_dim=shape.head_dim,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.text_width,
        pooled_projection_dim=shape.pooled_width,
        guidance_embeds=True,
        axes_dims_rope=shape.axes,
    )
    return FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
