"""Parts of a reward, and the AND that a sum of them would lose."""

import math

import pytest

from editing.advantage import AdvantageConfig
from editing.parts import parts_of
from mmreward.combine import from_mapping
from mmreward.config import ConfigError
from mmreward.reward import Reward
from mmreward.score import Score


class Fixed(Reward):
    name, dims = "fixed", ("instruction_following", "quality")

    def score(self, edits):
        return [Score(0.5, {"instruction_following": 0.5, "quality": 0.7}) for _ in edits]


def combination(overall):
    return from_mapping({"members": {"pixels": "pixels", "oracle": "oracle"}, "overall": overall})


GATED = {"method": "base_and_bonus", "base": "oracle", "bonus": {"preservation": 0.4}}
GEOMETRIC = {"method": "geometric", "weights": {"preservation": 1.0, "quality": 1.0}}
MINIMUM = {"method": "minimum", "of": ["preservation", "quality"]}
WEIGHTED = {"method": "weighted", "weights": {"preservation": 0.3, "oracle": 0.7}}


def config(**settings):
    return AdvantageConfig(normalise="parts", **settings)


def test_a_weighted_mean_gives_its_weights():
    parts = parts_of(combination(WEIGHTED), config())
    assert parts.weights == {"preservation": 0.3, "oracle": 0.7} and parts.base is None
    assert parts_of(combination(GATED), AdvantageConfig()) is None


@pytest.mark.parametrize("overall", [GATED, GEOMETRIC, MINIMUM])
def test_an_and_is_not_dropped_unasked(overall):
    with pytest.raises(ConfigError, match="into a plain sum.*conjunction: gate"):
        parts_of(combination(overall), config())
    assert parts_of(combination(overall), config(conjunction="drop")).base is None


def test_a_gate_needs_a_base():
    parts = parts_of(combination(GATED), config(conjunction="gate"))
    assert parts.weights == {"oracle": 1.0, "preservation": 0.4} and parts.base == "oracle"
    with pytest.raises(ConfigError, match="'combination' is geometric"):
        parts_of(combination(GEOMETRIC), config(conjunction="gate"))
    with pytest.raises(ConfigError, match="its base among the parts"):
        parts_of(combination(GATED), config(conjunction="gate", parts={"preservation": 1, "quality": 1}))


def test_another_reward_must_be_named_its_parts():
    with pytest.raises(ConfigError, match="does not say what its overall is made of.*instruction_following, quality"):
        parts_of(Fixed(), config())
    with pytest.raises(ConfigError, match="unknown part 'qualty'.*'quality'"):
        parts_of(Fixed(), config(parts={"qualty": 1.0}))
    with pytest.raises(ConfigError, match="alone is no sum"):
        parts_of(Fixed(), config(parts={"quality": 1.0}, conjunction="drop"))
    named = config(parts={"quality": 1.0, "instruction_following": 2.0}, conjunction="drop")
    assert parts_of(Fixed(), named).weights == {"quality": 1.0, "instruction_following": 2.0}


def test_values_are_dimensions_or_members_and_nan_where_there_is_none():
    parts = parts_of(combination(WEIGHTED), config())
    oracle = {"oracle": Score(0.9, {"preservation": 0.7}, raw={"overall": 17.0})}
    scores = [
        Score(0.5, {"preservation": 0.2}, parts=oracle),
        Score(0.5, {}, parts={"oracle": Score(0.4)}),
        Score(0.5, {"preservation": 0.6}, parts={"oracle": Score.failed("not_applicable", "left out")}),
        Score.failed("timeout", "late", parts=oracle),
    ]
    found = parts.values(scores)
    assert found.weights.tolist() == [0.3, 0.7] and found.base is None
    flat = [value for row in found.values.tolist() for value in row]
    assert flat == pytest.approx([0.2, 0.9, math.nan, 0.4, 0.6, math.nan, math.nan, math.nan], nan_ok=True)
