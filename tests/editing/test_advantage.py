"""Advantages by numbers worked out by hand."""

import math

import pytest
import torch

from editing.advantage import AdvantageConfig, PartValues, advantages, repeat_noise

NAN = math.nan


def test_group_mean_and_deviation():
    # group a: 1, 3 -> mean 2, deviation 1; group b: 0, 0, 6 -> mean 2, deviation sqrt(8)
    found = advantages(torch.tensor([1.0, 0.0, 3.0, 0.0, 6.0]), ["a", "b", "a", "b", "b"], AdvantageConfig())
    root = math.sqrt(8)
    assert found.values.tolist() == pytest.approx([-1, -2 / root, 1, -2 / root, 4 / root])
    assert found.weights.tolist() == [1, 1, 1, 1, 1]
    assert found.deviation == pytest.approx((1 + root) / 2)


def test_global_deviation():
    config = AdvantageConfig(deviation="global")
    found = advantages(torch.tensor([1.0, 3.0, 10.0, 14.0]), ["a", "a", "b", "b"], config)
    # centred: -1, 1, -2, 2 -> mean square 2.5
    assert found.values.tolist() == pytest.approx([v / math.sqrt(2.5) for v in (-1, 1, -2, 2)])


def test_floor_and_repeat_noise():
    scores, groups = torch.tensor([0.50, 0.52]), ["a", "a"]  # deviation 0.01
    assert advantages(scores, groups, AdvantageConfig(floor=0.1)).values.tolist() == pytest.approx(
        [-0.1, 0.1], abs=1e-6
    )
    assert advantages(scores, groups, AdvantageConfig(floor=0.1), noise=0.2).values[1] == pytest.approx(0.05, abs=1e-6)
    # differences 0.2 and -0.2 between two scorings: variance of a difference is twice that of a score
    assert repeat_noise(torch.tensor([0.4, 0.6, NAN]), torch.tensor([0.2, 0.8, 0.5])) == pytest.approx(
        0.2 / math.sqrt(2)
    )


def test_clip():
    found = advantages(torch.tensor([0.0] * 9 + [1.0]), ["a"] * 10, AdvantageConfig(clip=2.0))
    assert found.values[9] == 2.0 and found.values[0] == pytest.approx(-1 / 3)


def test_missing_scores_never_enter():
    scores = torch.tensor([1.0, NAN, 3.0, NAN, 5.0, NAN, NAN])
    groups = ["a", "a", "a", "b", "b", "c", "c"]
    found = advantages(scores, groups, AdvantageConfig())
    assert found.values.tolist() == pytest.approx([-1, 0, 1, 0, 0, 0, 0])
    assert found.weights.tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert (found.missing, found.dropped_groups) == (4, 2)
    for config in (AdvantageConfig(), AdvantageConfig(deviation="global")):
        with_failure = advantages(scores, groups, config).values[[0, 2]]
        assert torch.equal(with_failure, advantages(torch.tensor([1.0, 3.0]), ["a", "a"], config).values)


def test_nothing_scored():
    found = advantages(torch.tensor([NAN, NAN]), ["a", "a"], AdvantageConfig(deviation="global"))
    assert found.values.tolist() == [0, 0] and found.weights.sum() == 0 and math.isnan(found.deviation)
    with pytest.raises(ValueError, match="3 group names for 2 scores"):
        advantages(torch.zeros(2), ["a"] * 3, AdvantageConfig())


def test_ranks_count_who_is_strictly_better():
    scores = torch.tensor([0.5, 0.9, 0.5, NAN, 0.1, 0.3, 0.3])
    found = advantages(scores, ["a", "a", "a", "a", "a", "b", "b"], AdvantageConfig())
    assert found.ranks.tolist() == [1, 0, 1, 4, 3, 0, 0]


def test_quiet_and_saturated_groups_are_left_out_by_their_place():
    # means 0.1, 0.5, 0.9, 0.5; deviations 0.1, 0.01, 0.05, 0.2
    scores = torch.tensor([0.0, 0.2, 0.49, 0.51, 0.85, 0.95, 0.3, 0.7])
    groups = [name for name in "abcd" for _ in range(2)]
    whole = advantages(scores, groups, AdvantageConfig())
    found = advantages(scores, groups, AdvantageConfig(quiet=0.25, saturated=0.25))
    assert found.weights.tolist() == [1, 1, 0, 0, 0, 0, 1, 1] and found.filtered_groups == 2
    assert torch.equal(found.values, whole.values) and whole.filtered_groups == 0
    # a share of three groups that is less than one group is none
    assert advantages(scores[:6], groups[:6], AdvantageConfig(quiet=0.25)).filtered_groups == 0


def test_parts_count_by_their_weight_and_not_by_their_spread():
    # the second part spreads a tenth as far, and says the opposite with half the weight
    parts = PartValues(torch.tensor([[0.0, 0.1], [1.0, 0.0], [0.2, 0.5], [0.8, 0.5]]), torch.tensor([1.0, 0.5]))
    config = AdvantageConfig(normalise="parts", floor=1e-6)
    found = advantages(torch.tensor([0.1, 0.2, 0.3, 0.4]), ["a", "a", "b", "b"], config, parts=parts)
    # parts: (-1, 1, -1, 1) and (1, -1, 0, 0); sum (-.5, .5, -1, 1), deviation sqrt(.625) below sqrt(1.25)
    expected = [value / math.sqrt(1.25) for value in (-0.5, 0.5, -1, 1)]
    assert found.values.tolist() == pytest.approx(expected)
    assert found.ranks.tolist() == [1, 0, 1, 0]


def test_parts_that_agree_are_normalised_over_the_batch():
    parts = PartValues(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, 1.0]))
    found = advantages(torch.tensor([0.0, 1.0]), ["a", "a"], AdvantageConfig(normalise="parts"), parts=parts)
    assert found.values.tolist() == pytest.approx([-1, 1])  # the sum is -2, 2


def test_the_base_gates_what_the_other_parts_add():
    # two did nothing and keep everything; two did what was asked, and keep much or little
    values = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.6], [1.0, 0.2]])
    weights, config = torch.tensor([1.0, 2.0]), AdvantageConfig(normalise="parts")
    scores = torch.tensor([0.0, 0.0, 0.84, 0.68])
    summed = advantages(scores, ["a"] * 4, config, parts=PartValues(values, weights))
    gated = advantages(scores, ["a"] * 4, config, parts=PartValues(values, weights, base=0))
    assert summed.ranks.tolist() == [0, 0, 2, 3]  # the sum pays for doing nothing
    # base: -1, -1, 1, 1; bonus among the two that did it: 0, 0, 1, -1, twice
    assert gated.values.tolist() == pytest.approx([value / math.sqrt(5) for value in (-1, -1, 3, -1)])


def test_missing_parts_leave_their_weight_to_the_others():
    values = torch.tensor([[0.0, NAN], [1.0, NAN], [NAN, NAN]])
    config = AdvantageConfig(normalise="parts")
    found = advantages(torch.tensor([0.0, 1.0, NAN]), ["a"] * 3, config, parts=PartValues(values, torch.ones(2)))
    assert found.values.tolist() == pytest.approx([-1, 1, 0]) and found.weights.tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conjunction": "drop"}, "go with `normalise: parts`"),
        ({"parts": {"quality": 1.0}}, "go with `normalise: parts`"),
        ({"quiet": 0.5, "saturated": 0.5}, "leave no group"),
        ({"normalise": "parts", "parts": {"quality": 0.0}}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageConfig(**settings)


def test_each_part_has_the_floor_of_its_own_noise():
    # one group; both parts are 0.4 and 0.6, deviation 0.1; the second is scored with a noise of 0.2
    values = torch.tensor([[0.4, 0.4], [0.6, 0.6]])
    config = AdvantageConfig(normalise="parts", parts={"a": 1, "b": 1}, conjunction="drop", floor=0.05)
    weights, overall = torch.ones(2), torch.tensor([0.4, 0.6])
    noisy = PartValues(values, weights, noise=torch.tensor([0.0, 0.2]))
    # sums: -1 - 0.5 and 1 + 0.5; their deviation 1.5 is more than sqrt(2), by which independent parts would differ
    assert advantages(overall, ["g", "g"], config, 0.2, noisy).values.tolist() == pytest.approx([-1, 1])
    both = PartValues(values, weights, noise=torch.tensor([0.2, 0.2]))
    assert advantages(overall, ["g", "g"], config, 0.0, both).values.tolist() == pytest.approx(
        [-1 / math.sqrt(2), 1 / math.sqrt(2)]
    )
    quiet = PartValues(values, weights)  # the noise of the overall is not that of a part
    assert advantages(overall, ["g", "g"], config, 9.0, quiet).values.tolist() == pytest.approx([-1, 1])
