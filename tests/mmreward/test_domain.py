"""What lies in a model's domain, and that asking keeps no pixels."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, domain, shapes
from mmreward.edit import ImageError
from mmreward.shapes import World

TASK = World("validation", seed=3).task(0)
SHAPES = Image.fromarray(TASK.source_image)


def noise(size, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def outside(source, instruction="make it blue"):
    return domain.check("shapes", Edit(instruction, source, SHAPES))


@pytest.fixture
def readings(monkeypatch):
    """How many images are read."""
    counted, read = [], shapes.read
    monkeypatch.setattr(shapes, "read", lambda images: counted.append(len(images)) or read(images))
    monkeypatch.setattr(domain, "_shows_shapes", {})
    return counted


def test_the_shapes_world_and_what_is_not_of_it():
    assert outside(SHAPES) is None and outside(SHAPES.resize((512, 512))) is None
    for source in (noise((64, 64)), SHAPES.resize((64, 32)), SHAPES.resize((16, 16))):
        assert "not an image of the shapes world" in outside(source) and "?domain=any" in outside(source)
    assert domain.check("any", Edit("x", "missing.png", "missing.png")) is None
    with pytest.raises(ImageError):
        outside("missing.png")
    with pytest.raises(ValueError, match="unknown domain 'photos'"):
        domain.check("photos", Edit("x", SHAPES, SHAPES))


def test_a_source_is_read_once_and_a_photo_of_another_shape_not_at_all(readings):
    for _ in range(3):
        outside(SHAPES), outside(noise((96, 64)))
    assert readings == [1]


def test_the_answers_that_are_kept_are_bounded(readings, monkeypatch):
    monkeypatch.setattr(domain, "_KEPT", 4)
    for number in range(11):
        outside(SHAPES, f"instruction {number}")
    assert len(domain._shows_shapes) <= 4 and len(readings) == 11


def test_no_pixels_are_kept(readings):
    """Thirty square photos of 432 KB each; answers alone are some kilobytes."""
    outside(noise((384, 384)))
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for seed in range(30):
        outside(noise((384, 384), seed))
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert kept < 400_000


@pytest.mark.parametrize(
    ("known_for", "asked", "said", "status"),
    [("shapes", None, "shapes", "not_applicable"), ("shapes", "shapes", "shapes", "not_applicable"),
     ("shapes", "any", "ignored", "ok"), ("any", None, "any", "ok"), ("any", "shapes", "shapes", "not_applicable")],
)  # fmt: skip
def test_provenance_says_what_is_enforced(known_for, asked, said, status):
    """On a source that is not of the shapes world; also where the caller asks for a domain that the model has not."""
    from mmreward.rewards.clip import ClipReward
    from mmreward.rewards.clip_model import open_model

    model = open_model("tiny", "cpu")
    reward = ClipReward(replace(model, about=model.about | {"domain": known_for}), domain=asked)
    (score,) = reward.score([Edit("make it blue", noise((64, 64)), noise((64, 64), 1))])
    assert (score.provenance["domain"], score.status) == (said, status)
