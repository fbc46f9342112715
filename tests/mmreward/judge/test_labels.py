"""Labels as tokens."""

import pytest
import torch

from mmreward.fit.judge_model import new_tokenizer
from mmreward.judge.labels import LabelIds, answers, find_labels


@pytest.fixture(scope="module")
def tokenizer():
    return new_tokenizer(["is it 4 or 5 or 4"] * 50 + ["yes no"] * 50, 400)


def test_a_label_is_found_by_its_stripped_string(tokenizer):
    (ids,) = find_labels(tokenizer, ["no"]).ids
    assert {tokenizer.decode([one]) for one in ids} >= {"no", " no"} or {tokenizer.decode([one]) for one in ids} == {
        " no"
    }


def test_digits_letters_yes_and_no_are_single_distinct_tokens(tokenizer):
    found = find_labels(tokenizer, [*"0123456789", *"ABCxyz", "Yes", "No"])
    assert len({one for ids in found.ids for one in ids}) == sum(map(len, found.ids))


def test_a_label_of_several_tokens_is_refused(tokenizer):
    with pytest.raises(ValueError, match="'10' is not a single token"):
        find_labels(tokenizer, ["1", "10"])


def test_two_labels_must_not_share_a_token(tokenizer):
    with pytest.raises(ValueError, match="same token"):
        find_labels(tokenizer, ["4", " 4"])


def test_the_mass_is_taken_of_the_full_vocabulary():
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.2, 0.1]]))
    (answer,) = answers(LabelIds(((1,), (2, 3))).probabilities(logits))
    assert answer.probabilities == pytest.approx((0.2, 0.3))
    assert answer.mass == pytest.approx(0.5)


def test_output_that_is_not_finite_is_a_parse_error():
    (answer,) = answers(LabelIds(((0,), (1,))).probabilities(torch.tensor([[float("nan"), 0.0]])))
    assert answer.status == "parse_error"
