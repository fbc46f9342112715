"""Advantages by numbers worked out by hand."""

import math

import pytest
import torch

from editing.advantage import AdvantageConfig, advantages, repeat_noise

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
