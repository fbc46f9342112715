"""Small random models of other families: shared prompts give the answers of their own processor and forward."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from mmreward.fit.judge_model import SPECIAL_TOKENS, new_processor, new_tokenizer
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.folder import find_model
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.prompt import Fixed, Given, Prompt
from mmreward.judge.question import load_questions

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.3,
}
VISION = {"hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "initializer_range": 0.3}
TILES = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "initializer_range": 0.3,
}
SMOL_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    "{% for c in m.content %}{{ c.text if c.type == 'text' else '<image>' }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
INTERN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
    "{{ c.text if c.type == 'text' else '<IMG_CONTEXT>\n' }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer_with(*added, **names):
    tokenizer = new_tokenizer(["make the red circle blue"] * 5, 400)
    special = [*SPECIAL_TOKENS, *added]
    tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    tokenizer._set_model_specific_special_tokens(names)  # as a published folder's configuration does
    tokenizer.add_tokens([AddedToken(name, special=True) for name in names.values()], special_tokens=True)
    return tokenizer


def qwen(tokenizer):
    names = ("image", "video"), ("vision_start", "vision_end")
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in names[0]}
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names[1]}
    return ids


def qwen2_vl():
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    tokenizer = new_tokenizer(["make the red circle blue"] * 5, 400)
    made = new_processor(tokenizer)
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]}
    config = Qwen2VLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 1, "patch_size": 11},
        **qwen(tokenizer),
    )
    processor = Qwen2VLProcessor(
        made.image_processor, tokenizer, made.video_processor, chat_template=made.chat_template
    )
    return Qwen2VLForConditionalGeneration(config), processor


def qwen3_vl():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor

    tokenizer = new_tokenizer(["make the red circle blue"] * 5, 400)
    made = new_processor(tokenizer)
    made.image_processor.size = {"shortest_edge": 22 * 22, "longest_edge": 22 * 22 * 12}
    rope = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config=VISION
        | {
            "depth": 3,
            "patch_size": 11,
            "out_hidden_size": 32,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
        **qwen(tokenizer),
    )
    processor = Qwen3VLProcessor(
        made.image_processor, tokenizer, Qwen3VLVideoProcessor(), chat_template=made.chat_template
    )
    return Qwen3VLForConditionalGeneration(config), processor


def internvl():
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    tokenizer = tokenizer_with(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = InternVLConfig(
        text_config=TEXT | {"model_type": "qwen2", "vocab_size": len(tokenizer)},
        vision_config=TILES | {"image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessor(size={"height": 32, "width": 32}, max_patches=4)
    processor = InternVLProcessor(
        images, tokenizer, InternVLVideoProcessor(), image_seq_length=4, chat_template=INTERN_TEMPLATE
    )
    return InternVLForConditionalGeneration(config), processor


def _smol(config_class, model_class):
    marks = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    marks += [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    tokenizer = tokenizer_with("<image>", *marks)
    config = config_class(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config=TILES | {"image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return model_class(config), tokenizer, {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}


def smolvlm():
    pytest.importorskip("num2words")  # which the processor of SmolVLM needs
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    model, tokenizer, sizes = _smol(SmolVLMConfig, SmolVLMForConditionalGeneration)
    images = SmolVLMImageProcessor(**sizes)
    return model, SmolVLMProcessor(
        images, tokenizer, SmolVLMVideoProcessor(), image_seq_len=4, chat_template=SMOL_TEMPLATE
    )


def idefics3():
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    model, tokenizer, sizes = _smol(Idefics3Config, Idefics3ForConditionalGeneration)
    images = Idefics3ImageProcessor(**sizes)
    return model, Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=SMOL_TEMPLATE)


def llava():
    """A family that is not known to share prompts."""
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer = tokenizer_with("<image>")
    config = LlavaConfig(
        text_config=TEXT | {"model_type": "llama", "vocab_size": len(tokenizer), "pad_token_id": 0},
        vision_config=TILES | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    template = INTERN_TEMPLATE.replace("<IMG_CONTEXT>", "<image>")
    return LlavaForConditionalGeneration(config), LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=template,
    )


SHARED = {made.__name__: made for made in (qwen2_vl, qwen3_vl, internvl, smolvlm, idefics3)}
ALL = SHARED | {"llava": llava}
LABELS = tuple("012345")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of a family's model by its name, made when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            torch.manual_seed(0)
            model, processor = ALL[name]()
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            processor.save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def backends(folders):
    """Backend of a family in a layout, loaded from its folder."""
    made = {}

    def backend(name, layout=None):
        if (name, layout) not in made:
            made[name, layout] = TransformersBackend.load(find_model(str(folders(name))), layout=layout)
        return made[name, layout]

    return backend


@pytest.fixture(scope="module")
def tree(groups):
    """Images of several sizes, neighbouring images, branches that begin with text of others, uneven depths."""
    instruction, source, (first, second, third) = groups[0]
    ask = Prompt((Fixed("is it blue"),))
    wide = second.resize((90, 44))
    return Prompt(
        (Fixed("do this: "), Given(instruction + "<|im_end|><image><IMG_CONTEXT>"), Fixed("\nto\n"), source),
        (
            Prompt((first, wide), (ask, Prompt((Given(" red"), Fixed("?"))))),
            Prompt(
                (Fixed(" or "), third), (Prompt((Fixed(" to it"), first.resize((20, 70)), Fixed("or")), (ask,)), ask)
            ),
        ),
    )


def logs(answers):
    return np.log([answer.probabilities for row in answers for answer in row])


@pytest.mark.parametrize("layout", ["packed", "cached"])
@pytest.mark.parametrize("name", SHARED)
def test_shared_prompts_equal_plain_rows(backends, groups, tree, name, layout):
    shared, plain = backends(name, layout), backends(name, "plain")
    assert shared.describe["layout"] == layout
    prompts = [tree, load_questions("edit-1").prompt(*groups[1]), Prompt((groups[2][1], Fixed("what")))]
    expected = plain.probabilities(prompts, LABELS)
    assert all(answer.status == "ok" for row in expected for answer in row)
    assert np.ptp(logs(expected), axis=0).max() > 0.01  # the answers do differ
    np.testing.assert_allclose(logs(shared.probabilities(prompts, LABELS)), logs(expected), atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_plain_rows_equal_the_model_asked_alone(backends, groups, name):
    backend, questions = backends(name, "plain"), load_questions("shapes-1")
    (found, _) = backend.probabilities([questions.prompt(*group) for group in groups[:2]], LABELS)
    instruction, source, edited = groups[0]
    content = [{"type": "text", "text": instruction}, {"type": "image"}, {"type": "image"}]
    content += [{"type": "text", "text": "following"}]
    message = [{"role": "user", "content": content}]
    text = backend.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    inputs = backend.processor(text=[text], images=[source, edited[0]], return_tensors="pt")
    with torch.no_grad():
        whole = backend.model(**inputs).logits[0, -1].softmax(-1)
    expected = whole[[backend.processor.tokenizer.convert_tokens_to_ids(label) for label in LABELS]]
    np.testing.assert_allclose(np.log(found[0].probabilities), expected.log(), atol=1e-4)


@pytest.mark.parametrize("name", SHARED)
def test_shared_prompts_write_what_plain_rows_do(backends, tree, name):
    sampling = Sampling(max_new_tokens=4, temperature=1.0, passes=2)
    assert backends(name).generate([tree], sampling) == backends(name, "plain").generate([tree], sampling)


@pytest.mark.parametrize("name", SHARED)
def test_odd_images_have_an_answer_or_a_status(backends, groups, name):
    instruction, source, edited = groups[0]
    odd = [Image.new("RGB", (1, 1)), Image.new("RGB", (12000, 60), "red"), Image.new("RGB", (5000, 2)), edited[0]]
    for layout in (None, "plain"):
        (found,) = backends(name, layout).probabilities(
            [load_questions("shapes-1").prompt(instruction, source, odd)], LABELS
        )
        assert {answer.status for answer in found} <= {"ok", "not_applicable"}
        assert found[-1].status == "ok"
        assert all(answer.error for answer in found if answer.status != "ok")


def test_an_unknown_family_is_asked_by_plain_rows_and_the_log_says_so(folders, groups, caplog):
    with caplog.at_level(logging.WARNING):
        backend = TransformersBackend.load(find_model(str(folders("llava"))))
    assert backend.describe["layout"] == "plain"
    assert "layout plain" in caplog.text and "'llava'" in caplog.text
    prompt = load_questions("shapes-1").prompt(*groups[0])
    together, alone = backend.probabilities([prompt] * 2, LABELS), backend.probabilities([prompt], LABELS)
    np.testing.assert_allclose(logs(together[1:]), logs(alone), atol=1e-4)
    sampling = Sampling(max_new_tokens=3, temperature=1.0, passes=2)
    assert backend.generate([prompt] * 2, sampling)[1:] == backend.generate([prompt], sampling)


@pytest.mark.parametrize("start", ["<|endoftext|>", ""])
def test_a_tokenizer_that_begins_each_text_shares_where_the_template_writes_the_beginning(tree, start):
    torch.manual_seed(0)
    model, processor = idefics3()
    tokenizer, template = processor.tokenizer, processor.chat_template
    tokenizer.bos_token, processor.chat_template = "<|endoftext|>", template.replace("<|im_start|>", start)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    shared, plain = TransformersBackend(model, processor), TransformersBackend(model, processor, layout="plain")
    assert shared.describe["layout"] == ("packed" if start else "plain")
    np.testing.assert_allclose(
        logs(shared.probabilities([tree], LABELS)), logs(plain.probabilities([tree], LABELS)), atol=1e-4
    )


def test_deepstack_reaches_the_answer(backends, tree):
    """Without the features of earlier vision blocks the answers would be others."""
    backend = backends("qwen3_vl")
    look, before = backend.shared.vision.look, backend.probabilities([tree], LABELS)
    from dataclasses import replace

    backend.shared.vision.look = lambda images: {
        one: replace(picture, deep=tuple(torch.zeros_like(layer) for layer in picture.deep))
        for one, picture in look(images).items()
    }
    without = backend.probabilities([tree], LABELS)
    backend.shared.vision.look = look
    assert np.abs(logs(without) - logs(before)).max() > 1e-3


def test_only_models_with_a_pixel_budget_take_one(folders, backends):
    for name in ("internvl", "idefics3"):
        with pytest.raises(ValueError, match="has no pixel budget"):
            TransformersBackend.load(find_model(str(folders(name))), pixels=2000)
        assert "pixels" not in backends(name).describe and backends(name).describe["image_size"]
    loaded = TransformersBackend.load(find_model(str(folders("qwen3_vl"))), pixels=22 * 22 * 3)
    assert loaded.describe["pixels"] == {"min": 484, "max": 1452}


def test_a_reward_loads_it_with_the_general_questions(folders):
    from mmreward import load_reward

    judge = load_reward(f"vlm:{folders('qwen2_vl')}?floor=0")
    assert judge._provenance["question"] == "edit-1"
    assert judge._provenance["domain"] == "any"


@pytest.mark.parametrize("name", SHARED)
def test_provenance_says_which_size_a_family_sees(backends, name):
    backend = backends(name)
    for width, height in ((64, 64), (150, 40), (1, 1)):
        image = Image.new("RGB", (width, height), "red")
        (prepared,) = backend.shared.vision.family.prepare([image])
        backend.probabilities([Prompt((image, Fixed("what")))], LABELS)
        pixels, told = prepared.tensors["pixel_values"], backend.shown_size(width, height)
        if "image_grid_thw" in prepared.tensors:
            assert told == {"seen": [22 * prepared.columns, 22 * prepared.rows]}
        else:
            assert told == {"tiles": pixels.flatten(0, -4).shape[0], "tile": [*pixels.shape[:-3:-1]]}
    assert backends("qwen3_vl").shown_size(900, 2) == {}


@pytest.mark.parametrize("name", SHARED)
def test_judges_of_the_qwen_families_have_gradients(backends, groups, name):
    from mmreward.edit import Edit
    from mmreward.judge.reward import JudgeReward
    from mmreward.judge.ways import load_way

    judge = JudgeReward(backends(name), load_way("expected", {"floor": "0"}), name="x", model="x")
    instruction, source, (image, *_) = groups[0]
    images = [one.resize((66, 66)) for one in (source, image)]
    before, after = (torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 255 for one in images)
    if "qwen" not in name:
        assert not judge.is_differentiable
        with pytest.raises(ValueError, match="its own processor"):
            judge.tensor(before, after, [instruction])
        return
    found = judge.tensor(before, after.requires_grad_(), [instruction])
    assert found.item() == pytest.approx(judge.score([Edit(instruction, *images)])[0].overall, abs=1e-4)
    found.sum().backward()
    assert after.grad.abs().sum() > 0
