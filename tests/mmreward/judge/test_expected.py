"""Expected scores in closed form, the spread, and answers that are none."""

import math

import pytest

from mmreward.judge.labels import Answer, failed
from mmreward.judge.ways.expected import expectation, score_of

SURE = Answer((0, 0, 0, 0, 0, 1.0), 1.0)


def test_the_mean_and_deviation_of_two_digits():
    # 2 with 0.25, 4 with 0.75: mean 3.5 of 5; variance (0.25 * 1.5^2 + 0.75 * 0.5^2) / 25 = 0.75 / 25
    found = expectation([0, 0, 0.25, 0, 0.75, 0])
    assert found.mean == pytest.approx(0.7)
    assert found.deviation == pytest.approx(math.sqrt(0.03))


def test_probabilities_are_restricted_to_the_labels():
    assert expectation([0.1, 0.3]).mean == pytest.approx(0.75)


def test_overall_is_following_with_a_bonus_for_the_rest():
    half = Answer((0.5, 0, 0, 0, 0, 0.5), 1.0)
    score = score_of({"instruction_following": half, "preservation": SURE, "quality": half}, 0.5, {})
    assert score.dims == {"instruction_following": 0.5, "preservation": 1.0, "quality": 0.5}
    assert score.overall == pytest.approx(0.5 * 1.0 * 0.75)
    # E[f^2] = 0.5, E[(0.5 + 0.5 q)^2] = (0.25 + 1) / 2
    assert score.spread.value == pytest.approx(math.sqrt(0.5 * 0.625 - 0.375**2))
    assert score.spread.kind == "token"


def test_little_probability_on_the_labels_is_a_parse_error_and_no_number():
    unsure = Answer((0, 0, 0, 0, 0, 0.3), 0.3)
    score = score_of({"instruction_following": SURE, "quality": unsure}, 0.5, {"model": "m"})
    assert score.status == "parse_error"
    assert math.isnan(score.overall)
    assert "quality" in score.error and "0.3" in score.error
    assert score.raw["quality_mass"] == 0.3
    assert score_of({"instruction_following": unsure}, 0.2, {}).overall == 1.0


def test_a_failed_answer_keeps_its_status():
    score = score_of({"instruction_following": failed("not_applicable", "too long")}, 0.5, {})
    assert (score.status, score.error) == ("not_applicable", "instruction_following: too long")
