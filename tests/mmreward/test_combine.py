"""Combinations against hand-worked numbers, and what failures of members do."""

import math

import pytest
from PIL import Image

from mmreward import Combination, Edit, Score, load_reward
from mmreward.combine import BaseAndBonus, Geometric, Member, Minimum, Weighted
from mmreward.reward import Reward

EDIT = Edit("make it blue", Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8)))


class Fixed(Reward):
    """Says the same of every edit."""

    def __init__(self, name, score, dims=None):
        self.name, self._score = name, score
        self.dims = tuple(score.dims) if dims is None else dims

    def score(self, edits):
        return [self._score for _ in edits]


def member(overall=0.5, optional=False, **dims):
    return Member(Fixed("fixed", Score(overall, dims, raw={"logit": 2.0}, rationale="because")), optional)


def failing(status="timeout", optional=False, dims=()):
    return Member(Fixed("failing", Score.failed(status, "no answer"), dims), optional)


def one(overall, dims=None, **members):
    (score,) = Combination("test", members, overall, dims).score([EDIT])
    return score


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Weighted(weights={"a": 3, "b": 1}), (3 * 0.8 + 1 * 0.2) / 4),  # 0.65
        (Geometric(weights={"a": 1, "b": 1}), 0.4),  # sqrt(0.8 x 0.2) = sqrt(0.16)
        (Geometric(weights={"a": 3, "b": 1}), 0.8**0.75 * 0.2**0.25),
        (Minimum(of=["a", "b"]), 0.2),
        (BaseAndBonus(base="a", bonus={"b": 0.4}), 0.544),  # 0.8 x (0.6 + 0.4 x 0.2) = 0.8 x 0.68
        (BaseAndBonus(base="b", bonus={"a": 0.4}), 0.184),  # 0.2 x (0.6 + 0.4 x 0.8) = 0.2 x 0.92
        (BaseAndBonus(base="a"), 0.8),
    ],
)
def test_methods(method, expected):
    score = one(method, {}, a=member(0.8), b=member(0.2))
    assert score.ok and score.overall == pytest.approx(expected, abs=1e-12)


def test_base_and_bonus_is_the_formula_of_the_oracle():
    """following x (0.6 + 0.4 preservation) x (0.5 + 0.5 quality) = 1 x 0.8 x 0.9"""
    method = BaseAndBonus(base="instruction_following", bonus={"preservation": 0.4, "quality": 0.5})
    score = one(method, a=member(0, instruction_following=1.0, preservation=0.5, quality=0.8))
    assert score.overall == pytest.approx(0.72)


def test_an_edit_that_keeps_everything_and_does_nothing_gets_nothing():
    method = BaseAndBonus(base="instruction_following", bonus={"preservation": 0.4})
    assert one(method, a=member(0.5, instruction_following=0.0, preservation=1.0)).overall == 0


def test_dimensions_are_weighted_means_over_members():
    a, b = member(0.9, quality=0.8, preservation=0.4), member(0.1, quality=0.2)
    score = one(Minimum(of=["quality"]), {"quality": {"a": 1, "b": 2}}, a=a, b=b)
    assert score.dims == {"quality": pytest.approx(0.4)} and score.overall == score.dims["quality"]
    plain = one(Minimum(of=["quality"]), a=a, b=b)
    assert plain.dims == {"quality": pytest.approx(0.5), "preservation": pytest.approx(0.4)}


def test_everything_a_member_said_is_kept():
    score = one(Minimum(of=["a"]), a=member(0.9, quality=0.8))
    assert score.raw == {"a.overall": 0.9, "a.quality": 0.8, "a.logit": 2.0}
    assert score.rationale == "a: because" and score.provenance["reward"] == "test"


def test_a_failed_member_fails_the_combination_with_its_status():
    score = one(Weighted(weights={"a": 1, "b": 1}), {}, a=member(0.8), b=failing("refused"))
    assert score.status == "refused" and math.isnan(score.overall) and score.error == "b: no answer"


def test_members_that_fail_alike_are_named_together():
    score = one(Minimum(of=["a"]), {}, a=failing("refused"), b=failing("timeout"))
    assert (score.status, score.error) == ("refused", "a, b: no answer")


def test_an_optional_member_is_left_out_and_that_is_said():
    score = one(Weighted(weights={"a": 1, "b": 3}), {}, a=member(0.8), b=failing("refused", optional=True))
    assert score.ok and score.overall == 0.8
    assert score.provenance["left_out"] == {"b": "refused: no answer"}


def test_what_only_an_optional_member_measures_is_not_invented():
    dims = {"preservation": {"b": 1.0}}
    b = failing("timeout", optional=True, dims=("preservation",))
    score = one(BaseAndBonus(base="a", bonus={"preservation": 0.4}), dims, a=member(0.8), b=b)
    assert score.status == "timeout" and math.isnan(score.overall)
    alone = one(Weighted(weights={"b": 1}), {}, b=failing("timeout", optional=True))
    assert alone.status == "timeout"


def test_a_dimension_that_no_member_measured_here_is_not_applicable():
    quiet = Member(Fixed("quiet", Score(0.5), dims=("preservation",)))
    score = one(Minimum(of=["preservation"]), a=quiet)
    assert score.status == "not_applicable" and "no member measured preservation" in score.error


def test_one_score_per_edit_in_order():
    combination = Combination("test", {"a": member(0.8)}, Minimum(of=["a"]))
    assert len(combination.score([EDIT] * 3)) == 3 and combination.score([]) == []


def test_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nmembers:\n  p: pixels\n  q: {reward: pixels, optional: true}\n"
        "overall: {method: geometric, weights: {preservation: 1, quality: 1}}\n"
    )
    reward = load_reward(tmp_path / "mine.yaml")
    (score,) = reward.score([EDIT])
    assert reward.name == "mine" and reward.dims == ("preservation", "quality") and score.overall == 1.0


def test_a_combination_of_a_combination():
    inner = {"members": {"p": "pixels"}, "overall": {"method": "minimum", "of": ["p"]}}
    outer = {"members": {"inner": {"reward": inner}}, "overall": {"method": "minimum", "of": ["inner"]}}
    assert load_reward(outer).score([EDIT])[0].overall == 1.0


MINIMUM = {"method": "minimum", "of": ["p"]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"membres": {}}, "unknown key 'membres'; did you mean 'members'?"),
        ({"members": {}}, "members: Dictionary should have at least 1 item"),
        ({"members": {"p": {"reward": "pixels", "optinal": True}}}, "did you mean 'optional'?"),
        ({"members": {"p": "pixls"}}, "member 'p': unknown reward 'pixls'. Did you mean 'pixels'?"),
        ({"overall": {"method": "minimal", "of": ["p"]}}, "'minimum'"),
        ({"overall": {"method": "minimum", "off": ["p"]}}, "did you mean 'of'?"),
        ({"overall": {"method": "minimum", "of": ["qality"]}}, "Did you mean 'quality'?"),
        ({"overall": {"method": "weighted", "weights": {"p": -1}}}, "greater than 0"),
        ({"overall": {"method": "weighted", "weights": {"p": math.nan}}}, "weights"),
        ({"overall": {"method": "base_and_bonus", "base": "p", "bonus": {"quality": 1.5}}}, "less than or equal to 1"),
        ({"dims": {"quality": {"q": 1}}}, "unknown member 'q'. There is: p."),
        ({"dims": {"instruction_following": {"p": 1}}}, "'p' does not measure it; it measures: preservation, quality"),
        ({"members": {"quality": "pixels"}}, "'quality' is a dimension"),
    ],
)  # fmt: skip
def test_a_wrong_mapping_names_the_key(changes, message):
    with pytest.raises(ValueError) as raised:
        load_reward({"members": {"p": "pixels"}, "overall": MINIMUM, **changes})
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "line 1 is not YAML"), ("- a\n- b\n", "should hold `key: value` lines, got list"), ("", "got NoneType"),
     ("a: !!python/object/apply:os.system ['true']", "is not YAML")],
)  # fmt: skip
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_reward(str(tmp_path / "r.yaml"))
