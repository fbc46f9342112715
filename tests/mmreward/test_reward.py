"""Specs of rewards: what a name, a recipe and a mapping give, and what a wrong one is answered."""

import subprocess
import sys

import pytest

from mmreward import Reward, Score, load_reward
from mmreward.assets import model_folder
from mmreward.reward import LOADERS, Spec, read_spec, scores_of
from mmreward.rewards.pixels import PixelReward


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
        ("nowhere.yaml?a=1", "a combination takes no options, got 'nowhere.yaml?a=1'"),
        ("recommended?x=1", "the recipe 'recommended' takes neither a model nor options"),
        ("recommended:tiny", "the recipe 'recommended' takes neither a model nor options"),
        (3, "a reward is a name, a YAML path or a mapping, got int"),
        (PixelReward, "got the class PixelReward"),
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


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("pixels", Spec("pixels")),
        ("pixels?", Spec("pixels")),
        ("vlm:org/m?adapter=runs/a+b&way=rubric", Spec("vlm", "org/m", {"adapter": "runs/a+b", "way": "rubric"})),
        ("vlm:m?adapter=a%20b%26c%2525", Spec("vlm", "m", {"adapter": "a b&c%25"})),
        ("openai:http://h:1/v1#m?key_env=A=B", Spec("openai", "http://h:1/v1#m", {"key_env": "A=B"})),
        ("hpsv3:m?prompt=100% mine", Spec("hpsv3", "m", {"prompt": "100% mine"})),
    ],
)  # fmt: skip
def test_a_spec_is_read_as_it_is_written(text, spec):
    assert read_spec(text) == spec


def test_a_reward_that_loses_a_row_is_named():
    class Forgetful(Reward):
        name, dims = "forgetful", ()

        def score(self, edits):
            return [Score(0.5)] * (len(edits) - 1)

    with pytest.raises(ValueError, match="'forgetful' returned 1 scores for 2 edits"):
        scores_of(Forgetful(), [None, None])


WRONG = [
    *(f"{name}?nonsense=1" for name in LOADERS),
    *(name for name in LOADERS if name not in ("pixels", "oracle", "target")),
    *(f"{name}:model?nonsense=1" for name in LOADERS),
    *(f"{name}:model?dtype=int3" for name in ("vlm", "editreward", "hpsv3", "pickscore")),
    *(f"{name}:model?tokens=0" for name in ("vlm", "editreward", "hpsv3")),
    *("clip:model?batch=0", "clip:model?domain=photos", "vlm:tiny?domain=photos", "vlm:tiny?layout=square"),
    *("vlm:tiny?way=guess", "openai:http://h/v1?way=guess", "openai:http://h/v1?retries=-1", "openai:nonsense"),
    *("pickscore:model?scale=0", "editreward:model?pool=median", "published:model?judge=nobody"),
    *("vlm:no/such/folder", "pickscore:nofile", "hpsv3:m?prompt=nofile", "editscore:m?prompt=nofile"),
    *("pixls", "nowhere.yaml", "recommended?x=1"),
]


def test_a_wrong_spec_is_answered_before_torch_is_imported():
    """By each loader: nobody should wait seconds to learn that an option is misspelt."""
    program = f"""
import sys
from mmreward import load_reward
for spec in {WRONG!r}:
    try:
        load_reward(spec)
    except ValueError:
        heavy = {{"torch", "transformers", "open_clip"}} & set(sys.modules)
        assert not heavy, (spec, heavy)
    else:
        raise AssertionError(f"{{spec}} was loaded")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
