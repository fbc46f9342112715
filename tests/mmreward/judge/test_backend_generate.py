"""Writing text: greedy as `generate` of transformers does, seeded, the same whatever stands beside it."""

import pytest
import torch

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.sampling import luck, pick
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.prompt import Fixed, Prompt
from mmreward.judge.question import load_questions

WARM = Sampling(max_new_tokens=5, temperature=0.9, top_p=0.95, seed=7, passes=3)


@pytest.fixture(scope="module")
def backends(small):
    return {layout: TransformersBackend(*small, layout=layout) for layout in ("packed", "plain")}


@pytest.fixture(scope="module")
def asked(groups):
    questions = load_questions("shapes-1")
    return [
        questions.prompt(instruction, source, edited[:n]) for (instruction, source, edited), n in zip(groups, (2, 1))
    ]


def test_greedy_text_is_that_of_transformers(small, backends, groups):
    model, processor = small
    instruction, source, edited = groups[0]
    prompt = load_questions("shapes-1").prompt(instruction, source, edited[:1])
    content = [{"type": "text", "text": instruction}, {"type": "image", "image": source}]
    content += [{"type": "image", "image": edited[0]}, {"type": "text", "text": "following"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(ids, skip_special_tokens=True)
    for backend in backends.values():
        ((first, *_),) = backend.generate([prompt], Sampling(max_new_tokens=6, passes=2))
        assert [text.text for text in first] == [expected] * 2


def test_shared_and_plain_write_the_same(backends, asked):
    shared, plain = (backend.generate(asked, WARM) for backend in backends.values())
    assert [[len(leaf) for leaf in prompt] for prompt in shared] == [[3] * 6, [3] * 3]
    assert shared == plain
    assert len({text.text for leaf in shared[0] for text in leaf}) > 3  # passes and questions do differ


def test_a_text_depends_on_its_seed_and_not_on_its_batch(small, backends, asked):
    together = backends["packed"].generate(asked, WARM)
    assert [row for prompt in asked for row in backends["packed"].generate([prompt], WARM)] == together
    cramped = TransformersBackend(*small, tokens=40).generate(asked, WARM)
    assert cramped == together
    second = Sampling(max_new_tokens=5, temperature=0.9, top_p=0.95, seed=8, passes=1)  # the second pass above
    told = backends["packed"].generate(asked, second)
    assert [[leaf[0] for leaf in prompt] for prompt in told] == [[leaf[1] for leaf in prompt] for prompt in together]


@pytest.mark.parametrize("layout", ["packed", "plain"])
def test_text_that_ends_is_finished_and_text_that_is_cut_off_is_not(small, asked, layout):
    import copy

    model, processor = copy.copy(small[0]), small[1]
    short = Sampling(max_new_tokens=1, temperature=1.0, passes=40)
    (texts, *_) = TransformersBackend(model, processor, layout=layout).generate(asked, short)
    assert not any(text.finished for leaf in texts for text in leaf)
    said = processor.tokenizer(texts[0][0].text, add_special_tokens=False)["input_ids"]
    model.generation_config = copy.copy(model.generation_config)
    model.generation_config.eos_token_id = [said[0]]
    (texts, *_) = TransformersBackend(model, processor, layout=layout).generate(asked, short)
    assert texts[0][0].finished and texts[0][0].text == ""
    assert {text.finished for text in texts[0]} == {True, False}


@pytest.mark.parametrize("layout", ["packed", "plain"])
def test_a_row_that_cannot_be_asked_is_a_text_with_a_status(small, groups, asked, layout):
    instruction, source, edited = groups[0]
    backend = TransformersBackend(*small, layout=layout)
    long = load_questions("shapes-1").prompt("blue " * 4100, source, edited[:1])
    odd, good = backend.generate([long, asked[0]], WARM)
    assert [len(leaf) for leaf in odd] == [3] * 3
    assert {text.status for leaf in odd for text in leaf} == {"not_applicable"}
    assert "longer than the model takes" in odd[0][0].error
    assert good == backend.generate(asked[:1], WARM)[0]


def test_text_alone_can_be_asked(backends):
    for backend in backends.values():
        ((leaf,),) = backend.generate([Prompt((Fixed("what is red"),))], WARM)
        assert len(leaf) == 3


def test_the_nucleus_holds_the_fewest_tokens_that_reach_top_p():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(1000, 1)
    numbers = torch.linspace(0, 0.9999, 1000)
    chosen = pick(logits, numbers, Sampling(temperature=1.0, top_p=0.7))
    counts = torch.bincount(chosen, minlength=4).tolist()
    assert counts == [625, 375, 0, 0]  # 0.5 and 0.3 of 0.8
    assert set(pick(logits, numbers, Sampling(temperature=1.0, top_p=0.0)).tolist()) == {0}
    assert set(pick(logits, numbers, Sampling(temperature=0.0)).tolist()) == {0}
    warm = pick(logits, numbers, Sampling(temperature=0.5))  # squares: 0.25, 0.09, 0.0225, 0.0025 of 0.365
    assert torch.bincount(warm, minlength=4).tolist() == pytest.approx([685, 247, 61, 7], abs=1)


def test_pass_number_i_has_the_numbers_of_seed_plus_i():
    assert torch.equal(luck(Sampling(seed=3, passes=2, temperature=1.0))[1], luck(Sampling(seed=4, temperature=1.0))[0])
