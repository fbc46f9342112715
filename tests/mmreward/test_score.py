"""Scores: a number in [0, 1], or a failure with a reason; nothing between."""

import math

import pytest

from mmreward import Score


def test_a_failure_is_nan_with_a_reason():
    score = Score.failed("timeout", "no answer within 60 s")
    assert not score.ok and math.isnan(score.overall) and score.dims == {} and score.error == "no answer within 60 s"


@pytest.mark.parametrize("overall", [-0.01, 1.01, math.nan, math.inf])
def test_an_ok_score_is_a_number_in_the_unit_interval(overall):
    with pytest.raises(ValueError, match="overall in"):
        Score(overall)
    with pytest.raises(ValueError, match="quality in"):
        Score(0.5, {"quality": overall})


def test_a_failure_never_carries_a_number_or_hides_its_reason():
    with pytest.raises(ValueError, match="needs overall = NaN"):
        Score(0.5, status="timeout", error="slow")
    with pytest.raises(ValueError, match="an error that says why"):
        Score(math.nan, status="timeout")
    with pytest.raises(ValueError, match="status must be one of ok, io_error"):
        Score(math.nan, status="broken", error="x")
