"""A model of another family takes the plain way, with the answers of its own processor and forward."""

import numpy as np
import pytest
import torch

from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.question import load_questions


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """A small random Qwen2-VL (not 2.5) as a folder."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    _, processor = small
    ids = processor.tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "initializer_range": 0.2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 6, 6]},
        },
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 1, "patch_size": 11},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("qwen2vl")
    Qwen2VLForConditionalGeneration(config).save_pretrained(path)
    Qwen2VLProcessor(
        processor.image_processor, processor.tokenizer, processor.video_processor, chat_template=processor.chat_template
    ).save_pretrained(path)
    return path


def test_it_is_asked_by_plain_rows_and_answers_as_alone(folder, groups):
    backend = TransformersBackend.load(find_model(str(folder)))
    assert backend.describe["layout"] == "plain"
    questions = load_questions("shapes-1")
    (found, _) = backend.probabilities([questions.prompt(*group) for group in groups[:2]], questions.labels)

    instruction, source, edited = groups[0]
    content = [{"type": "text", "text": instruction}, {"type": "image", "image": source}]
    content += [{"type": "image", "image": edited[0]}, {"type": "text", "text": "following"}]
    inputs = backend.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        whole = backend.model(**inputs).logits[0, -1].softmax(-1)
    expected = whole[[backend.processor.tokenizer.convert_tokens_to_ids(label) for label in questions.labels]]
    np.testing.assert_allclose(np.log(found[0].probabilities), expected.log(), atol=1e-4)


def test_a_reward_loads_it_with_the_general_questions(folder):
    from mmreward import load_reward

    judge = load_reward(f"vlm:{folder}?floor=0")
    assert judge._provenance["question"] == "edit-1"
    assert judge._provenance["domain"] == "any"
