import itertools

import numpy as np
import pytest
from PIL import Image
from scipy.stats import kendalltau

from editing.measures import measures
from mmreward.edit import Edit
from mmreward.score import Score


def flat(value, size=(16, 16)):
    return Image.new("RGB", size, (value, value, value))


def batch(*groups):
    """Groups as (source, edits)."""
    edits = [
        Edit(f"task {n}", source, edited) for n, (source, edited_all) in enumerate(groups) for edited in edited_all
    ]
    return edits


def scored(**members):
    return Score(0.5, parts={name: Score(value) for name, value in members.items()})


def test_diversity_is_the_mean_distance_of_pairs():
    # distances within the first group: 0.2, 0.2, 0; within the second: 0; groups count alike
    first = (flat(0), [flat(0), flat(51), flat(51)])
    found = measures(batch(first, (flat(0), [flat(9), flat(9)])), [Score(0.5)] * 5)
    assert found["diversity"] == pytest.approx((0.4 / 3 + 0) / 2, abs=1e-6)


def test_a_group_of_one_has_no_diversity_and_no_ranks():
    found = measures(batch((flat(0), [flat(9)])), [scored(a=0.1, b=0.2)])
    assert set(found) == {"changed_area", "untouched"}


def test_changed_area_and_copies():
    half = np.zeros((16, 16, 3), np.uint8)
    half[:, 8:] = 255
    slight = flat(10)  # 0.04 of the range: not visible
    found = measures(batch((flat(0), [flat(0), slight, flat(255), Image.fromarray(half)])), [Score(0.5)] * 4)
    # the 3x3 mean carries the edge one pixel outwards: 9 of 16 columns
    assert found["changed_area"] == pytest.approx((0 + 0 + 1 + 9 / 16) / 4)
    assert found["untouched"] == 0.5


def test_edits_of_another_size_count_at_the_size_of_the_source():
    found = measures(batch((flat(80, (600, 300)), [flat(80, (608, 304)), flat(80, (64, 64))])), [Score(0.5)] * 2)
    assert found == {"diversity": 0.0, "changed_area": 0.0, "untouched": 1.0}


@pytest.mark.parametrize(
    ("other", "expected"), [([0.1, 0.2, 0.3], 0.0), ([0.3, 0.2, 0.1], 2.0), ([0.2, 0.3, 0.1], 4 / 3)]
)
def test_disagreement_of_three(other, expected):
    # orders 1 2 3 and 2 3 1: one pair agrees, two do not, tau = -1/3
    scores = [scored(a=a, b=b) for a, b in zip([0.1, 0.2, 0.3], other, strict=True)]
    found = measures(batch((flat(0), [flat(0)] * 3)), scores)
    assert found["disagreement"] == pytest.approx(expected)


def test_disagreement_is_kendalls_tau_b_within_groups():
    drawn = np.random.default_rng(0).integers(0, 5, (2, 8, 3)) / 5  # with ties
    scores = [scored(a=a, b=b, c=c) for a, b, c in drawn.reshape(-1, 3)]
    found = measures(batch((flat(0), [flat(0)] * 8), (flat(1), [flat(1)] * 8)), scores)
    taus = [kendalltau(g[:, i], g[:, j])[0] for g in drawn for i, j in itertools.combinations(range(3), 2)]
    assert found["disagreement"] == pytest.approx(1 - np.mean(taus))


def test_what_has_no_score_or_one_value_is_left_out_of_the_ranks():
    failed = Score.failed("refused", "no", parts={"a": Score.failed("refused", "no"), "b": Score(0.9)})
    scores = [scored(a=0.1, b=0.1), failed, scored(a=0.2, b=0.2), scored(a=0.3, b=0.3)]
    assert measures(batch((flat(0), [flat(0)] * 4)), scores)["disagreement"] == pytest.approx(0)
    constant = [scored(a=value, b=0.5) for value in (0.1, 0.2, 0.3, 0.4)]
    assert "disagreement" not in measures(batch((flat(0), [flat(0)] * 4)), constant)
    assert "disagreement" not in measures(batch((flat(0), [flat(0)] * 4)), [Score(0.5)] * 4)
