"""Preferences: probabilities of one whole, verdicts, failures, and comparing by scores."""

import math

import pytest
from PIL import Image

from mmreward import Edit, Score
from mmreward.preference import Preference, compare_scores, comparer
from mmreward.reward import Reward

RED, BLUE = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


class ByName(Reward):
    """Scores an edit by the number in its instruction; negative is a failure."""

    name, dims = "by name", ()

    def __init__(self):
        self.asked = 0

    def score(self, edits):
        self.asked += len(edits)
        values = [float(edit.instruction) for edit in edits]
        return [Score(v) if v >= 0 else Score.failed("timeout", "late") for v in values]


def edit(value):
    return Edit(str(value), RED, BLUE)


@pytest.mark.parametrize(
    ("preference", "share", "verdict"),
    [
        (Preference(0.7), 0.7, "first"),
        (Preference(0.2, 0.3), 0.35, "second"),
        (Preference(0.0, 1.0), 0.5, "tie"),
        (Preference(0.5), 0.5, "tie"),
        (Preference(0.55, margin=0.05), 0.55, "tie"),
    ],
)
def test_share_and_verdict(preference, share, verdict):
    assert preference.share == pytest.approx(share) and preference.verdict == verdict
    assert preference.first + preference.tie + preference.second == pytest.approx(1)


def test_a_failure_is_a_status_and_no_number():
    failed = Preference.failed("refused", "no")
    assert not failed.ok and failed.verdict is None
    assert all(map(math.isnan, (failed.first, failed.tie, failed.second, failed.share)))


@pytest.mark.parametrize("wrong", [{"first": 1.2}, {"first": 0.7, "tie": 0.5}, {"first": math.nan}, {"first": -0.1}])
def test_numbers_that_are_no_probabilities_are_refused(wrong):
    with pytest.raises(ValueError):
        Preference(**wrong)
    with pytest.raises(ValueError):
        Preference(0.5, status="timeout", error="late")
    with pytest.raises(ValueError):
        Preference(0.5, status="late")


def test_any_reward_compares_by_its_scores_each_edit_scored_once():
    low, high, bad = edit(0.2), edit(0.5), edit(-1)
    reward = ByName()
    told = compare_scores(reward, [(low, high), (high, low), (low, low), (bad, high)])
    assert [one.verdict for one in told] == ["second", "first", "tie", None]
    assert told[3].error == "first: late" and told[0].raw == {"first": 0.2, "second": 0.5}
    assert reward.asked == 3
    assert comparer(reward, margin=0.4).compare([(low, high)])[0].verdict == "tie"


def test_a_reward_without_an_overall_is_refused_before_it_scores():
    class Dimensions(ByName):
        name, dims, has_overall = "dimensions", ("quality", "preservation"), False

    reward = Dimensions()
    for compare in (lambda: compare_scores(reward, [(edit(0.2), edit(0.5))]), lambda: comparer(reward)):
        with pytest.raises(ValueError, match="dimensions .*no overall to compare by; choose one of quality, preserv"):
            compare()
    assert reward.asked == 0


def test_a_reward_that_loses_an_edit_is_named():
    class Forgetful(ByName):
        def score(self, edits):
            return super().score(edits)[1:]

    with pytest.raises(ValueError, match="'by name' returned 1 scores for 2 edits"):
        compare_scores(Forgetful(), [(edit(0.2), edit(0.5))])


class Rank(Reward):
    """Share of the other edits of one call that an edit, by its id, is not below."""

    name, dims, needs_group = "rank", (), True

    def score(self, edits):
        values = [float(edit.id) for edit in edits]
        return [Score(sum(v >= other for other in values) / len(values)) for v in values]


def test_scores_that_depend_on_the_group_compare_each_pair_alone():
    """1 against 2 is the same preference whoever else is compared in the same call."""
    one, two, three = (Edit("x", b"", b"", id=str(number)) for number in (1, 2, 3))
    (alone,) = compare_scores(Rank(), [(one, two)])
    among = compare_scores(Rank(), [(one, two), (two, three), (three, one)])
    assert alone.raw == among[0].raw == {"first": 0.5, "second": 1.0}
    assert [preference.verdict for preference in among] == ["second", "second", "first"]
