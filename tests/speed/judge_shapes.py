"""Random Qwen2.5-VL models in the sizes of the published ones, with a tokenizer learned from the questions' own words.

Sizes: S. Bai et al., "Qwen2.5-VL Technical Report", 2025, https://arxiv.org/abs/2502.13923, table 1, and the
configurations published with the weights.
"""

from __future__ import annotations

__all__ = ["SHAPES", "new_shape"]

from collections.abc import Sequence
from typing import Any

import torch

from mmreward.fit.judge_model import CHAT_TEMPLATE, SPECIAL_TOKENS, new_tokenizer

_VISION = {"hidden_size": 1280, "depth": 32, "num_heads": 16, "intermediate_size": 3420,
           "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "toy": {
        "text": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
                 "intermediate_size": 128, "vocab_size": 4096},
        "vision": {"hidden_size": 32, "depth": 2, "num_heads": 2, "intermediate_size": 64,
                   "fullatt_block_indexes": [1]},
    },
    "bundled": {
        "text": {"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
                 "intermediate_size": 512, "vocab_size": 4096},
        "vision": {"hidden_size": 160, "depth": 3, "num_heads": 5, "intermediate_size": 320,
                   "fullatt_block_indexes": [0, 1, 2]},
    },
    "3B": {
        "text": {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2,
                 "intermediate_size": 11008, "vocab_size": 151936},
        "vision": _VISION,
    },
    "7B": {
        "text": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
                 "intermediate_size": 18944, "vocab_size": 152064},
        "vision": _VISION,
    },
}  # fmt: skip
"""Sizes by name; "toy" is for trying a script out, "bundled" has the sizes of the bundled judge."""


def new_shape(
    name: str, texts: Sequence[str], device: str | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Any, Any]:
    """(model, processor) of a size, weights random by seed 0; images of up to 16384 visual tokens."""
    from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

    shape = SHAPES[name]
    tokenizer = new_tokenizer([*texts] * 5, 1000)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    half = shape["text"]["hidden_size"] // shape["text"]["num_attention_heads"] // 2
    sections = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]  # a quarter for time, the rest for the grid
    config = Qwen2_5_VLConfig(
        text_config={
            **shape["text"],
            "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={**shape["vision"], "out_hidden_size": shape["text"]["hidden_size"]},
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
    )
    torch.manual_seed(0)
    with torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False), _processor(tokenizer)


def _processor(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16384 * 28 * 28}
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size), tokenizer, Qwen2VLVideoProcessor(size=size), chat_template=CHAT_TEMPLATE
    )
