"""HPSv3 against its published computation, with the words of its package where that is installed."""

import copy
import importlib.util
import math

import pytest
import yaml
from safetensors.torch import save_file

from mmreward import load_reward
from mmreward.edit import Edit

WORDS = {"INSTRUCTION": "\nrate it: {text_prompt}\n", "prompt_with_special_token": "\nthe rating: <|Reward|>\n\nEND\n"}


@pytest.fixture(scope="module")
def made(base, reference, tmp_path_factory):
    """(model, processor, head, base folder, weights file, prompt file)."""
    model, processor, folder = base("qwen2_vl")
    model, processor = copy.deepcopy(model), copy.deepcopy(processor)
    reference.extended(model, processor)
    head = reference.new_head()
    place = tmp_path_factory.mktemp("hpsv3")
    tensors = {n.replace("model.visual.", "visual."): t.clone() for n, t in model.state_dict().items()}
    tensors = {n.replace("model.language_model.", "model."): t for n, t in tensors.items()}
    tensors |= {f"rm_head.{n}": t.clone() for n, t in head.state_dict().items()}
    save_file(tensors, place / "HPSv3.safetensors")
    prompt = place / "words.yaml"
    prompt.write_text(yaml.safe_dump(WORDS))
    return model, processor, head, folder, place / "HPSv3.safetensors", prompt


def check(score, told):
    mu, log_sigma = told
    assert score.ok, score.error
    assert score.raw == pytest.approx({"mu": mu, "sigma": math.exp(log_sigma)}, abs=1e-5)
    overall = 1 / (1 + math.exp(-(mu - 8) / 2))
    assert score.overall == score.dims["preference"] == pytest.approx(overall, rel=1e-4)
    assert score.spread.kind == "head"
    assert score.spread.value == pytest.approx(math.exp(log_sigma) * overall * (1 - overall) / 2, rel=1e-3)


def test_the_score_is_that_of_the_published_computation(made, reference, edits):
    model, processor, head, folder, weights, prompt = made
    reward = load_reward(f"hpsv3:{weights}?base={folder}&prompt={prompt}")
    assert reward.name.startswith("own prompt on the weights of hpsv3:")
    captioned = Edit("x", edits[0].source, edits[0].edited, target_caption="a blue circle")
    for edit, score, text in zip(
        [*edits[:2], captioned], reward.score([*edits[:2], captioned]), ["", "", "a blue circle"]
    ):
        words = WORDS["INSTRUCTION"].format(text_prompt=text or edit.instruction) + WORDS["prompt_with_special_token"]
        check(score, reference.read(model, processor, head, [edit.image("edited")], words))
        assert score.provenance["text"] == ("target caption" if text else "instruction")


def test_blanks_at_the_ends_of_a_text_are_given_as_they_are(made, reference, edits):
    """The published code does not strip, and a blank is a token."""
    model, processor, head, folder, weights, prompt = made
    reward = load_reward(f"hpsv3:{weights}?base={folder}&prompt={prompt}")
    blanks = Edit("x", edits[0].source, edits[0].edited, target_caption=" \t a blue circle  \n")
    score, stripped = reward.score([blanks, Edit("a blue circle", edits[0].source, edits[0].edited)])
    words = WORDS["INSTRUCTION"].format(text_prompt=blanks.target_caption) + WORDS["prompt_with_special_token"]
    check(score, reference.read(model, processor, head, [blanks.image("edited")], words))
    assert abs(score.raw["mu"] - stripped.raw["mu"]) > 1e-4


@pytest.mark.skipif(not importlib.util.find_spec("hpsv3"), reason="the package hpsv3, which holds the words, is absent")
def test_words_of_the_package_give_the_published_name(made, reference, edits):
    from mmreward.judge.checkpoints.texts import package_folder, read_texts
    from mmreward.rewards.hpsv3 import PLACES

    model, processor, head, folder, weights, _ = made
    reward = load_reward(f"hpsv3:{weights}?base={folder}")
    assert reward.name == f"hpsv3:{weights}"
    template, ending = read_texts(package_folder("hpsv3", "HPSv3"), PLACES, "").values
    (score,) = reward.score(edits[:1])
    words = template.format(text_prompt=edits[0].instruction) + ending
    check(score, reference.read(model, processor, head, [edits[0].image("edited")], words))
    assert score.provenance["question"].startswith("as published, from hpsv3")


def test_bad_rows_are_statuses(made, edits):
    reward = load_reward(f"hpsv3:{made[4]}?base={made[3]}&prompt={made[5]}&centre=5&scale=3")
    bad = [Edit(" ", edits[0].source, edits[0].edited), Edit("x", edits[0].source, b"no image")]
    scores = reward.score([bad[0], edits[0], bad[1]])
    assert [one.status for one in scores] == ["not_applicable", "ok", "io_error"]
    assert scores[1].provenance["centre"] == 5
    assert reward.score([]) == []


def test_words_without_their_places_are_refused(made, tmp_path):
    for change, message in (
        ({"INSTRUCTION": "rate it"}, "{text_prompt}"),
        ({"prompt_with_special_token": "END"}, "Reward"),
    ):
        (tmp_path / "words.yaml").write_text(yaml.safe_dump(WORDS | change))
        with pytest.raises(ValueError, match=message):
            load_reward(f"hpsv3:{made[4]}?base={made[3]}&prompt={tmp_path / 'words.yaml'}")
