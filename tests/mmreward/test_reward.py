"""Specs of rewards: what a name, a recipe and a mapping give, and what a wrong one is answered."""

import pytest

from mmreward import Reward, load_reward
from mmreward.assets import model_folder
from mmreward.reward import LOADERS


def test_pixels_is_a_reward():
    reward = load_reward("pixels")
    assert isinstance(reward, Reward) and reward.name == "pixels"
    assert load_reward(reward) is reward


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pixls", "unknown reward 'pixls'. Did you mean 'pixels'?"),
        ("recomended", "Did you mean 'recommended'?"),
        ("vml:tiny", "Did you mean 'vlm'?"),
        ("", "unknown reward ''"),
        ("pixels:large", "the reward 'pixels' has no models"),
        ("pixels?size=3", "unknown option of 'pixels' 'size'"),
        ("pixels?size", "written ?name=value&name=value"),
        ("pixels?a=1&a=2", "an option is given twice"),
        ("pixels?a-b=1", "'a-b' in 'pixels?a-b=1' is not the name of an option"),
        ("nowhere.yaml", "there is no file 'nowhere.yaml'"),
        (3, "a reward is a name, a YAML path or a mapping, got int"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec, message):
    with pytest.raises(ValueError) as raised:
        load_reward(spec)
    assert message in str(raised.value)


def test_the_message_lists_what_there_is():
    with pytest.raises(ValueError) as raised:
        load_reward("nothing like any")
    assert all(name in str(raised.value) for name in (*LOADERS, "recommended"))


def test_unknown_bundled_model():
    with pytest.raises(ValueError, match="unknown bundled model 'tiny-juge'"):
        model_folder("tiny-juge")
