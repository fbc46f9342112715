"""What the cards of the bundled rewards say, for programs that must tell one measure from another."""

import json

import pytest

from mmreward.assets import model_folder


@pytest.mark.parametrize(("name", "family"), [("tiny-judge", "qwen2.5-vl"), ("tiny-clip", "open_clip ViT")])
def test_a_reward_s_card_names_its_family_and_its_teacher(name, family):
    card = json.loads((model_folder(name) / "mmreward.json").read_text(encoding="utf-8"))
    assert (card["family"], card["taught_by"], card["domain"]) == (family, "oracle", "shapes")
    assert card["command"] or card["recipes"]


def test_the_judge_s_card_names_the_ways_that_it_was_taught():
    card = json.loads((model_folder("tiny-judge") / "mmreward.json").read_text(encoding="utf-8"))
    assert set(card["questions"]) == {"expected", "checklist", "pairwise"}
    text = (model_folder("tiny-judge") / "README.md").read_text(encoding="utf-8")
    assert all(f"{way} ({name})" in text for way, name in card["questions"].items())
