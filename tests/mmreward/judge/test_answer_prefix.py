"""An answer that begins with a given text, in this process: every layout goes on as the model's own forward does."""

import numpy as np
import pytest
import torch

from mmreward.edit import Edit
from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.transformers import LAYOUTS, TransformersBackend
from mmreward.judge.prompt import Fixed, Given, Prompt
from mmreward.judge.question import load_questions
from mmreward.judge.reward import JudgeReward
from mmreward.judge.ways import load_way

LABELS = tuple("012345")
BEGINNINGS = ("Grade: ", "", '\n{"blue": ')


@pytest.fixture(scope="module")
def backends(small):
    return {layout: TransformersBackend(*small, layout=layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def prompt(groups):
    """A source with two candidates, three questions about each, whose answers begin in three ways."""
    instruction, source, edited = groups[0]
    asked = tuple(Prompt((Fixed("is it blue"),), answer=text) for text in BEGINNINGS)
    return Prompt((Given(instruction), source), tuple(Prompt((image,), asked) for image in edited[:2]))


def values(answers):
    return np.asarray([answer.probabilities for row in answers for answer in row])


@torch.no_grad()
def straightforward(small, prompt):
    """Label probabilities and the next token, by the processor and the forward of transformers alone."""
    model, processor = small
    ids = [processor.tokenizer.convert_tokens_to_ids(label) for label in LABELS]
    found, tokens = [], []
    for (given, source, edited, asked), beginning in zip(prompt.paths(), prompt.beginnings()):
        content = [{"type": "text", "text": given.text}, {"type": "image"}, {"type": "image"}]
        content += [{"type": "text", "text": asked.text}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = processor(text=[text + beginning], images=[source, edited], return_tensors="pt")
        logits = model(**inputs).logits[0, -1]
        found.append(logits.softmax(-1)[ids].numpy())
        tokens.append(int(logits.argmax()))
    return np.asarray(found), tokens


@pytest.mark.parametrize("layout", LAYOUTS)
def test_probabilities_go_on_from_the_beginning_of_an_answer(small, backends, prompt, layout):
    expected, _ = straightforward(small, prompt)
    found = values(backends[layout].probabilities([prompt], LABELS))
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the beginning does matter
    np.testing.assert_allclose(np.log(found), np.log(expected), atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_goes_on_from_the_beginning_of_an_answer(small, backends, prompt, layout):
    _, tokens = straightforward(small, prompt)
    (written,) = backends[layout].generate([prompt], Sampling(max_new_tokens=1))
    decode = small[1].tokenizer.decode
    assert [text.text for (text,) in written] == [decode([token], skip_special_tokens=True) for token in tokens]


def test_layouts_write_the_same_texts(backends, prompt):
    written = [backends[layout].generate([prompt], Sampling(max_new_tokens=6, seed=2)) for layout in LAYOUTS]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_question_set_with_a_prefix_is_asked_in_this_process(backends, groups, layout):
    way = load_way("expected", {"floor": "0"})
    way.questions = load_questions("shapes-1").model_copy(update={"prefix": "Grade: "})
    instruction, source, edited = groups[0]
    (score,) = JudgeReward(backends[layout], way, name="x", model="x").score([Edit(instruction, source, edited[0])])
    assert score.ok
