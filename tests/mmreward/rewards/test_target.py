"""The target reward by hand-worked distances."""

import pytest
from PIL import Image

from mmreward import Edit, load_reward

REWARD = load_reward("target")


def plain(value: int, size=(64, 64)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


@pytest.mark.parametrize(("edited", "progress"), [(100, 1.0), (0, 0.0), (25, 0.25), (150, 0.5), (250, -0.5)])
def test_share_of_the_way(edited, progress):
    (score,) = REWARD.score([Edit("make it grey", plain(0), plain(edited), target=plain(100))])
    assert score.raw["progress"] == pytest.approx(progress, abs=1e-6)
    assert score.overall == pytest.approx(max(progress, 0), abs=1e-6)


def test_what_cannot_be_measured_says_so():
    no_target = Edit("a", plain(0), plain(1))
    no_way = Edit("a", plain(5), plain(1), target=plain(5))
    other_shape = Edit("a", plain(0), plain(1, (64, 32)), target=plain(9))
    missing = Edit("a", plain(0), "missing.png", target=plain(9))
    scores = REWARD.score([no_target, no_way, other_shape, missing])
    assert [score.status for score in scores] == ["not_applicable"] * 3 + ["io_error"]
    with pytest.raises(ValueError, match="has no models"):
        load_reward("target:big")
