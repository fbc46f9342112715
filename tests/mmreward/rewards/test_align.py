"""Images at one size: the bound, how images are brought to it, and that smaller ones stay as they are."""

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.edit import ImageError
from mmreward.rewards import align as rules
from mmreward.rewards.align import MOST_PIXELS, align, bounded


def noise(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (1920, 1080)),
        ((1448, 1448), (1448, 1448)),
        ((2896, 2896), (1448, 1448)),  # a quarter of the pixels
        ((4000, 3000), (1672, 1254)),  # x sqrt(2^21 / 12,000,000) = 0.41804
        ((80_000_000, 1), (MOST_PIXELS, 1)),
        ((1, 80_000_000), (1, MOST_PIXELS)),
    ],
)
def test_the_bound(size, expected):
    assert bounded(size) == expected and expected[0] * expected[1] <= MOST_PIXELS


def test_images_within_the_bound_are_those_that_were_given():
    source, edited = noise((64, 48)), noise((64, 48), 1)
    aligned = align(Edit("x", source, edited), ("source", "edited", "mask", "target"))
    assert set(aligned.images) == {"source", "edited"} and aligned.about == {}
    assert aligned.images["edited"].tobytes() == edited.tobytes()


def test_larger_images_are_means_of_areas(monkeypatch):
    """At a quarter of the pixels each one is the mean of two by two."""
    monkeypatch.setattr(rules, "MOST_PIXELS", 32 * 24)
    source, small = noise((64, 48)), noise((32, 24), 1)
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    aligned = align(Edit("x", source, small, mask=mask), ("source", "edited", "mask"))
    mean = np.asarray(source, np.float64).reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.asarray(aligned.images["source"]) - mean).max() <= 1
    assert aligned.images["edited"].tobytes() == small.tobytes()  # it has that size already
    assert np.asarray(aligned.images["mask"])[:, :16].min() == 255 and aligned.images["mask"].size == (32, 24)
    assert aligned.about == {"resized": {"source": "64x48 to 32x24", "mask": "64x48 to 32x24"}}


def test_another_aspect_ratio_cannot_be_compared():
    with pytest.raises(ImageError, match="target image is 70x48 and the source 64x48") as raised:
        align(Edit("x", noise((64, 48)), noise((64, 48)), target=noise((70, 48))), ("source", "target"))
    assert raised.value.status == "not_applicable"


@pytest.mark.parametrize("name", ["pixels", "target"])
def test_rewards_that_compare_pixels_say_that_they_made_images_smaller(name, monkeypatch):
    """A change of colour of half the image is worth the same at half the size, but for its edge."""
    source = Image.new("RGB", (64, 64), (100, 100, 100))
    edited, target = source.copy(), source.copy()
    edited.paste((110, 100, 100), (0, 0, 32, 64))
    target.paste((130, 100, 100), (0, 0, 32, 64))
    edit = Edit("x", source, edited, target=target if name == "target" else None)
    reward = load_reward(name)
    (whole,) = reward.score([edit])
    monkeypatch.setattr(rules, "MOST_PIXELS", 32 * 32)
    (small,) = reward.score([edit])
    assert small.provenance["resized"]["edited"] == "64x64 to 32x32" and "resized" not in whole.provenance
    assert small.overall == pytest.approx(whole.overall, abs=0.01)
