"""Features are computed once per content, kept within bounds, and have the same bytes whatever they come with."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmreward.judge.backends.batches import attempt, batches
from mmreward.judge.backends.families import find_family
from mmreward.judge.backends.transformers import TransformersBackend
from mmreward.judge.backends.vision import Vision
from mmreward.judge.prompt import Fixed, Prompt

LABELS = tuple("012345")


@pytest.fixture
def images():
    drawn = np.random.default_rng(0).integers(0, 255, (7, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in drawn]


def new_vision(small, **options):
    return Vision(small[0], find_family(*small), alone=1, **options)


def test_an_image_is_looked_at_once_whatever_the_order(small, images):
    backend = TransformersBackend(*small)
    before = backend.shared.vision.looks
    ask = Fixed("is it blue")
    backend.probabilities([Prompt((images[0], images[1], ask)), Prompt((images[1].copy(), images[0], ask))], LABELS)
    assert backend.shared.vision.looks - before == 2


def test_what_was_seen_in_an_earlier_call_is_kept_and_has_the_same_bytes(small, images):
    first, other = new_vision(small), new_vision(small)
    told = first.look(images[:4])
    again = first.look([images[3], images[1].copy()])
    assert first.looks == 4
    fresh = other.look([images[1], images[5], images[3]])
    for image in (images[1], images[3]):
        assert torch.equal(told[id(image)].features, fresh[id(image)].features)
    assert again[id(images[3])] is told[id(images[3])]


def test_small_images_are_looked_at_together_and_kept_for_their_call(small, images):
    vision = Vision(small[0], find_family(*small))
    groups = list(vision._groups(vision.family.prepare(images)))
    assert groups == [list(range(7))]
    vision.look(images)
    vision.look(images[:2])
    assert vision.looks == 9


def test_what_is_kept_is_bounded_and_the_least_recently_used_goes_first(small, images):
    one = next(iter(new_vision(small).look(images[:1]).values())).nbytes
    vision = new_vision(small, kept_bytes=3 * one)
    vision.look(images[:3])
    vision.look(images[:1])
    vision.look(images[3:4])  # the second image goes
    assert vision.looks == 4
    vision.look([images[0], images[2], images[3]])
    assert vision.looks == 4
    vision.look(images[1:2])
    assert vision.looks == 5
    assert vision._bytes == 3 * one


def test_more_images_than_are_kept_all_have_features(small, images):
    vision = new_vision(small, kept_bytes=0)
    assert all(picture.features is not None for picture in vision.look(images).values())
    assert not vision._kept


def test_batches_hold_to_the_limit_padding_counted():
    found = list(batches([5, 1, 4, 1, 9], 10))
    assert found == [[4], [0, 2], [1, 3]]


def test_too_little_memory_halves_the_batch_and_names_the_row_that_is_too_much():
    sizes = []

    def run(items):
        sizes.append(len(items))
        if sum(items) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [item * 10 for item in items]

    assert attempt(run, [1, 2, 9, 3]) == [10, 20, None, 30]
    assert sizes == [4, 2, 2, 1, 1]
