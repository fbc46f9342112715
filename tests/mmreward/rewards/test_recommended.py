"""The recommended combination with the bundled models: right edits first, photos not applicable."""

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.assets import example_edits
from mmreward.batch import read_rows, score_rows


@pytest.fixture(scope="module")
def reward():
    return load_reward("recommended")


def test_puts_the_right_edit_of_each_bundled_example_first(reward):
    groups: dict[str, list[tuple[float, str]]] = {}
    for one in score_rows(read_rows(example_edits()), reward):
        assert one.score.ok, one.score.error
        groups.setdefault(one.row.meta["kind"], []).append((one.score.overall, one.row.meta["flaw"]))
    first = [max(members)[1] for members in groups.values()]
    assert len(first) == 6 and first.count("none") >= 5


def test_a_photo_is_not_applicable_and_models_for_it_are_named(reward):
    """Not a photo, but as far from the shapes world."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    (score,) = reward.score([Edit("make it a painting", noise, noise)])
    assert score.status == "not_applicable" and "vlm:Qwen" in score.error
