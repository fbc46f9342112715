"""A judge as a differentiable function of pixels: near the score, and its gradients are those of finite differences."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.judge.backends.patches import patches, resized
from mmreward.judge.backends.transformers import LAYOUTS, TransformersBackend
from mmreward.judge.reward import JudgeReward
from mmreward.judge.ways import load_way
from mmreward.shapes import World

SHAPES = {"question": "shapes-1", "floor": "0"}


def judge_of(model, processor, way="expected", options=None, **settings):
    backend = TransformersBackend(model, processor, **settings)
    return JudgeReward(backend, load_way(way, dict(SHAPES if options is None else options)), name="x", model="x")


def as_tensor(image, dtype=torch.float32):
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).to(dtype) / 255


@pytest.fixture(scope="module")
def rows(groups):
    """(instructions, sources, edited images) of four edits."""
    told = [(instruction, source, edited[0]) for instruction, source, edited in groups]
    return [list(column) for column in zip(*told)]


def stacked(images, dtype=torch.float32):
    return torch.stack([as_tensor(image, dtype) for image in images])


def test_it_is_near_the_score_of_the_bundled_judge():
    judge, world = load_reward("vlm:tiny"), World("validation", seed=21)
    tasks = list(world.tasks(6))
    sources = [Image.fromarray(task.source_image) for task in tasks]
    edited = [Image.fromarray(world.candidates(task, 1)[0].image) for task in tasks]
    texts = [task.instruction for task in tasks]
    scores = judge.score([Edit(*row) for row in zip(texts, sources, edited)])
    assert judge.is_differentiable
    pixels = stacked(edited).requires_grad_()
    found = judge.tensor(stacked(sources), pixels, texts)
    assert found.shape == (6,) and found.dtype == torch.float32
    assert (found.detach() - torch.tensor([score.overall for score in scores])).abs().max() < 0.03
    found.sum().backward()
    assert (pixels.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in judge.backend.model.parameters())


@pytest.mark.parametrize("layout", ["packed", "cached"])
def test_without_a_resize_only_rounding_is_left(small, rows, layout):
    texts, sources, edited = rows
    sized = [[image.resize((66, 66)) for image in images] for images in (sources, edited)]
    judge = judge_of(*small, layout=layout)
    scores = judge.score([Edit(text, *images) for text, *images in zip(texts, *sized)])
    found = judge.tensor(*(stacked(images) for images in sized), texts)
    assert found.tolist() == pytest.approx([score.overall for score in scores], abs=1e-5)


@pytest.mark.parametrize("layout", ["packed", "cached"])
def test_gradients_are_those_of_finite_differences(small, rows, layout):
    texts, sources, edited = rows
    judge = judge_of(copy.deepcopy(small[0]).double(), small[1], layout=layout)
    source, pixels = stacked(sources[:2], torch.float64), stacked(edited[:2], torch.float64)
    pixels = (0.1 + 0.8 * pixels).requires_grad_()
    judge.tensor(source, pixels, texts[:2]).sum().backward()
    direction = torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-3 * direction / direction.abs().max()
    with torch.no_grad():
        up, down = (judge.tensor(source, pixels + sign * step, texts[:2]) for sign in (1, -1))
    slope = (pixels.grad * step).sum((1, 2, 3))
    assert slope.abs().min() > 1e-7
    torch.testing.assert_close((up - down) / 2, slope, rtol=1e-2, atol=1e-8)


def test_gradients_reach_the_source_too(small, rows):
    texts, sources, edited = rows
    source = stacked(sources[:1]).requires_grad_()
    judge_of(*small).tensor(source, stacked(edited[:1]), texts[:1]).backward()
    assert source.grad.abs().sum() > 0


def test_patches_are_those_of_the_processor(small, rows):
    processor = small[1].image_processor
    for size in ((66, 66), (110, 44)):
        image = rows[1][0].resize(size)
        own = copy.copy(processor)
        own.size = type(processor.size)(shortest_edge=1, longest_edge=10**6)
        theirs = own(images=[image], return_tensors="pt")
        ours, *grid = patches(resized(as_tensor(image)[None], own), own)
        assert [1, *grid] == theirs["image_grid_thw"][0].tolist()
        torch.testing.assert_close(ours[0], theirs["pixel_values"])


def test_rows_without_a_score_are_nan_and_leave_the_others_alone(small, rows):
    texts, sources, edited = rows
    judge = judge_of(*small)
    source, pixels = stacked(sources[:3]), stacked(edited[:3]).requires_grad_()
    found = judge.tensor(source, pixels, [texts[0], "  ", "blue " * 4100])
    assert found.isnan().tolist() == [False, True, True]
    found[found.isfinite()].mean().backward()
    assert pixels.grad[0].abs().sum() > 0 and pixels.grad[1:].abs().sum() == 0
    alone = judge.tensor(source[:1], pixels[:1], texts[:1])
    torch.testing.assert_close(alone, found[:1], atol=1e-5, rtol=0)
    unsure = judge_of(*small, options={**SHAPES, "floor": "1"}).tensor(source[:1], pixels[:1], texts[:1])
    assert unsure.isnan().all()
    assert judge.tensor(source[:0], pixels[:0], []).shape == (0,)


def test_wrong_tensors_say_what_is_wrong(small, rows):
    judge, images = judge_of(*small), stacked(rows[1][:2])
    for source, texts, message in (
        (images * 255, ["x"] * 2, r"source must lie in \[0, 1\], it goes from"),
        (images[0], ["x"], "source must be floating-point images"),
        ((images * 255).byte(), ["x"] * 2, "got torch.uint8"),
        (images, ["x"], "holds 2 images for 1 instructions"),
    ):
        with pytest.raises(ValueError, match=message):
            judge.tensor(source, images, texts)


def test_judges_without_gradients_say_why(small, rows):
    for judge, message in (
        (judge_of(*small, way="rubric", options={}), "only the way 'expected'"),
        (judge_of(*small, layout="plain"), "layout packed or cached"),
    ):
        assert not judge.is_differentiable
        with pytest.raises(ValueError, match=message):
            judge.tensor(stacked(rows[1]), stacked(rows[2]), rows[0])
    assert [judge_of(*small, layout=layout).is_differentiable for layout in LAYOUTS] == [True, True, False]
