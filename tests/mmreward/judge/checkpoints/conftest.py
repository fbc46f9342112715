"""Small random models with the layout of published ones: Qwen2-VL, Qwen2.5-VL, Qwen3-VL of one layer."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from mmreward.edit import Edit
from mmreward.fit.judge_model import SPECIAL_TOKENS, new_tokenizer

TEMPLATE = """\
{%- if messages[0].role != 'system' -%}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{ message.content }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""What the template of Qwen2-VL and Qwen2.5-VL does with images and text: a system message, then all parts in order."""


def new_base(family, patch=14, seed=0):
    """(model with its language head, processor) of a family, hidden size 32, with weights large enough to matter."""
    import transformers as t

    tokenizer = new_tokenizer(["make the red circle blue, rate the edit"] * 5, 400)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"],
    }  # fmt: skip
    common = {
        "vision_start_token_id": ids["<|vision_start|>"], "vision_end_token_id": ids["<|vision_end|>"],
        "image_token_id": ids["<|image_pad|>"], "video_token_id": ids["<|video_pad|>"], "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {"depth": 1, "num_heads": 2, "patch_size": patch, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
        config, kind = (
            t.Qwen2VLConfig(text_config=text, vision_config=vision, **common),
            t.Qwen2VLForConditionalGeneration,
        )
        processor = t.Qwen2VLProcessor
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 112}
        vision |= {"fullatt_block_indexes": [0]}
        config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
        kind, processor = t.Qwen2_5_VLForConditionalGeneration, t.Qwen2_5_VLProcessor
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 32, "num_position_embeddings": 64}
        vision |= {"deepstack_visual_indexes": [0]}
        config = t.Qwen3VLConfig(text_config=text, vision_config=vision, **common)
        kind, processor = t.Qwen3VLForConditionalGeneration, t.Qwen3VLProcessor
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    shape = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 16384 * (2 * patch) ** 2}
    images, videos = t.Qwen2VLImageProcessor(size=size, **shape), t.Qwen2VLVideoProcessor(size=size, **shape)
    if family == "qwen3_vl":
        videos = t.Qwen3VLVideoProcessor(size=size, **shape)
    return model, processor(images, tokenizer, videos, chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """base(family) -> (model, processor, folder with both), made once."""
    made = {}

    def make(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            model, processor = new_base(family)
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
            made[family] = (model, processor, folder)
        return made[family]

    return make


@pytest.fixture(scope="session")
def edits():
    """Two candidates of one source, and an edit of another source of another shape."""
    generator = torch.Generator().manual_seed(3)

    def image(width, height):
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        return Image.fromarray(pixels.numpy())

    source = image(60, 60)
    return [
        Edit("make the circle blue", source, image(60, 60)),
        Edit("make the circle blue", source, image(64, 48)),
        Edit("remove it, {all} <|im_end|> of it", image(90, 40), image(90, 40)),
    ]


AREA = 256 * 28 * 28


def new_head():
    """A random head; its layers are those of the published ones."""
    head = nn.Sequential(
        nn.Linear(32, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    return head.eval()


def extended(model, processor, seed=1):
    """The model with <|Reward|> in its vocabulary, as `resize_token_embeddings` makes it; both are changed."""
    torch.manual_seed(seed)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    model.resize_token_embeddings(len(processor.tokenizer))
    return model


@torch.no_grad()
def read(model, processor, head, images, text):
    """(mu, log sigma) of a row with these images and this text, by the published computation of HPSv3 and EditReward.

    One row at a time, in the steps of their code: the processor writes the row, the vision model's features replace the
    place holders, the language model is called on embeddings without image grids (hence with plain positions), the
    head reads all tokens and one is taken.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    sized = []
    for image in images:
        height, width = smart_resize(image.height, image.width, 28, AREA, AREA)
        sized.append(image.convert("RGB").resize((width, height), 3))
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    written = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = processor(text=[written], images=sized, return_tensors="pt")
    embeds = model.get_input_embeddings()(batch["input_ids"])
    features = model.model.visual(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
    place = (batch["input_ids"] == model.config.image_token_id)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(place, features.to(embeds.dtype))
    hidden = model.model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])[0]
    token = processor.tokenizer.convert_tokens_to_ids("<|Reward|>")
    return head(hidden.float())[batch["input_ids"] == token][0].tolist()


@pytest.fixture(scope="session")
def reference():
    """The published computation: new_head(), extended(model, processor), read(model, processor, head, images, text)."""
    return SimpleNamespace(new_head=new_head, extended=extended, read=read)
