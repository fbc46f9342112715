"""The oracle as a reward: the labels of the world, read back from pixels."""

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.shapes import World

WORLD = World("validation", seed=3)


def edits_of(task, candidates):
    source = Image.fromarray(task.source_image)
    return [Edit(task.instruction, source, Image.fromarray(candidate.image)) for candidate in candidates]


def test_reads_back_the_labels_of_the_world():
    for task in WORLD.tasks(6):
        candidates = WORLD.candidates(task, 5)
        for one, candidate in zip(load_reward("oracle").score(edits_of(task, candidates)), candidates, strict=True):
            assert one.dims["instruction_following"] == pytest.approx(candidate.truth.following), candidate.flaw
            assert one.dims["preservation"] == pytest.approx(candidate.truth.preservation), candidate.flaw
            assert one.raw["success"] == candidate.truth.success


def test_the_target_is_a_success_and_the_source_none():
    task = WORLD.task(0)
    source, target = Image.fromarray(task.source_image), Image.fromarray(task.target_image)
    right, untouched = load_reward("oracle").score([Edit(task.instruction, source, e) for e in (target, source)])
    assert right.overall == 1 and right.raw["success"] == 1
    assert untouched.overall == 0 and untouched.dims["preservation"] == 1


def test_what_is_not_of_the_world_has_a_status():
    task = WORLD.task(0)
    source = Image.fromarray(task.source_image)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    edits = [
        Edit(task.instruction, noise, source),
        Edit("make it look like a painting", source, source),
        Edit("", source, source),
        Edit(task.instruction, source, noise),
        Edit(task.instruction, source, source.resize((64, 32))),
        Edit(task.instruction, "missing.png", source),
        Edit(task.instruction, source, source.resize((128, 128))),
    ]
    scores = load_reward("oracle").score(edits)
    expected = ["not_applicable"] * 3 + ["parse_error", "not_applicable", "io_error", "ok"]
    assert [one.status for one in scores] == expected
    assert "unreadable" in scores[3].error and load_reward("oracle").score([]) == []
