"""The tiny judge: a Qwen2.5-VL model from scratch, with its own tokenizer, processor and chat template.

Architecture: S. Bai et al., "Qwen2.5-VL Technical Report", 2025, https://arxiv.org/abs/2502.13923; classes of
transformers, unchanged, so that whatever reads that family reads this folder. What differs from the published sizes,
and why:

- the processor resizes every image to 66x66, patches are 11x11 and merged 2x2: nine visual tokens an image, one for
  each place of the shapes world;
- all vision blocks attend to the whole image;
- rotary bases of 100 and alternating M-RoPE sections, so that rows and columns of a 3x3 grid are told apart;
- a byte-level BPE of about a thousand tokens, learned on the world's own sentences, with the special tokens of
  Qwen2.5-VL under their own names;
- the chat template has no system message and no newlines between messages.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2Tokenizer

__all__ = ["CHAT_TEMPLATE", "SPECIAL_TOKENS", "ModelConfig", "new_model", "new_processor", "new_tokenizer"]

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>",
    "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type in ('image', 'image_url') or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

_PATCH, _MERGE, _SIDE = 11, 2, 66
_THETA = 100.0


class ModelConfig(BaseModel, extra="forbid", frozen=True):
    """Sizes of the tiny judge. Heads are 32 wide."""

    hidden: int = Field(default=256, multiple_of=64)
    layers: int = Field(default=5, ge=3)
    mlp: int = Field(default=512, ge=32)
    vision_width: int = Field(default=160, multiple_of=32)
    vision_layers: int = Field(default=3, ge=1)
    vision_mlp: int = Field(default=320, ge=32)
    vocabulary: int = Field(default=1000, ge=400)


def new_tokenizer(texts: Iterable[str], vocabulary: int = 1000) -> Qwen2Tokenizer:
    """A byte-level BPE learned on `texts`; digits, letters, Yes and No are single tokens. Deterministic."""
    from tokenizers import Tokenizer, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import Qwen2Tokenizer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_fixed_words(texts), trainer)
    learned = _json(tokenizer)["model"]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=4096,
    )


def _json(tokenizer: Any) -> dict[str, Any]:
    import json

    return json.loads(tokenizer.to_str())


def _with_fixed_words(texts: Iterable[str]) -> Iterator[str]:
    yield from texts
    words = ["Yes", "No", "user", "assistant", "system", "following", "preservation", "quality"]
    for word in (*words, *string.ascii_letters, *string.digits):
        yield from [word] * 500


def new_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """The processor of the tiny judge: every image becomes nine visual tokens."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": _SIDE * _SIDE, "longest_edge": _SIDE * _SIDE}
    shape = {"patch_size": _PATCH, "merge_size": _MERGE, "temporal_patch_size": 2, "size": size}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**shape), tokenizer, Qwen2VLVideoProcessor(**shape), chat_template=CHAT_TEMPLATE
    )


def new_model(config: ModelConfig, tokenizer: Qwen2Tokenizer, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The model with fresh weights from `seed`, in float32."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    heads = config.hidden // 32
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden,
        "intermediate_size": config.mlp,
        "num_hidden_layers": config.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.04,
        "rope_parameters": {"rope_type": "default", "rope_theta": _THETA, "mrope_section": [1] * 16},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": config.vision_layers,
        "hidden_size": config.vision_width,
        "intermediate_size": config.vision_mlp,
        "num_heads": config.vision_width // 32,
        "out_hidden_size": config.hidden,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": 2,
        "window_size": 2 * _SIDE,
        "fullatt_block_indexes": list(range(config.vision_layers)),
        "initializer_range": 0.04,
        "rope_parameters": {"rope_type": "axial", "rope_theta": _THETA},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=text,
                vision_config=vision,
                tie_word_embeddings=True,
                image_token_id=ids["<|image_pad|>"],
                video_token_id=ids["<|video_pad|>"],
                vision_start_token_id=ids["<|vision_start|>"],
                vision_end_token_id=ids["<|vision_end|>"],
            )
        )
    model.generation_config.update(
        do_sample=False, max_new_tokens=1, eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"]
    )
    return model.float()
