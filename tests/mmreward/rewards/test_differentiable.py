"""One contract for every reward with gradients, held by the bundled ones with their trained weights."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.reward import Differentiable
from mmreward.shapes import World

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("transformers")

# How far `tensor` is from `score`, in `overall`, for images of 64 x 64. CLIP needs no resize; the judge's processor
# resizes bytes and rounds to bytes, where a tensor keeps its numbers.
TOLERANCE = {"clip:tiny": 1e-4, "vlm:tiny": 0.01}
# Of finite differences: CLIP's maps have knots, so its step is short; norms of transformers compute in float32 whatever
# the weights are, so the judge's rises above that rounding, which ROUNDING allows for.
STEP = {"clip:tiny": 1e-5, "vlm:tiny": 3e-4}
ROUNDING = {"clip:tiny": 1e-10, "vlm:tiny": 2e-7}


@dataclass(frozen=True)
class Rows:
    instructions: list[str]
    sources: list[Image.Image]
    edited: list[Image.Image]

    def edits(self) -> list[Edit]:
        return [Edit(*row) for row in zip(self.instructions, self.sources, self.edited, strict=True)]

    def tensors(self, dtype: Any = torch.float32) -> Any:
        return stacked(self.sources, dtype), stacked(self.edited, dtype)


def stacked(images, dtype=torch.float32):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).to(dtype) / 255 for image in images])


@pytest.fixture(scope="module")
def rows():
    """Of four tasks: the right edit, a flawed one, and an untouched copy."""
    world = World("validation", seed=21)
    found = Rows([], [], [])
    for task in world.tasks(4):
        for image in (*(c.image for c in world.candidates(task, 2)), task.source_image):
            found.instructions.append(task.instruction)
            found.sources.append(Image.fromarray(task.source_image))
            found.edited.append(Image.fromarray(image))
    return found


@pytest.fixture(scope="module", params=list(TOLERANCE))
def reward(request):
    return load_reward(request.param)


def in_float64(reward):
    """The same reward, its network in float64."""
    if reward.name.startswith("clip"):
        twin = copy.copy(reward)
        twin.model = replace(reward.model, module=copy.deepcopy(reward.model.module).double())
        return twin
    twin = load_reward(reward.name)
    twin.backend.model.double()
    return twin


def test_it_is_near_the_score_and_has_a_gradient(reward, rows):
    assert isinstance(reward, Differentiable) and reward.is_differentiable
    source, edited = rows.tensors()
    edited.requires_grad_()
    overall = reward.tensor(source, edited, rows.instructions)
    assert overall.shape == (12,) and overall.dtype == torch.float32
    expected = [score.overall for score in reward.score(rows.edits())]
    assert overall.tolist() == pytest.approx(expected, abs=TOLERANCE[reward.name])
    overall.sum().backward()
    moved = [i for i in range(12) if i % 3 != 2]  # an untouched copy is a minimum of CLIP: its gradient may be zero
    assert edited.grad.isfinite().all() and (edited.grad[moved].abs().amax((1, 2, 3)) > 0).all()


def test_gradients_are_those_of_finite_differences(reward, rows):
    exact = in_float64(reward)
    source, edited = (images[::3] for images in rows.tensors(torch.float64))
    edited = (0.1 + 0.8 * edited).requires_grad_()
    overall = exact.tensor(source, edited, rows.instructions[::3])
    assert overall.dtype == torch.float64
    overall.sum().backward()
    step = STEP[reward.name] * torch.randn(
        edited.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        up, down = (exact.tensor(source, edited + sign * step, rows.instructions[::3]) for sign in (1, -1))
    slopes = (edited.grad * step).sum((1, 2, 3))
    assert slopes.abs().median() > 100 * ROUNDING[reward.name]
    torch.testing.assert_close((up - down) / 2, slopes, rtol=5e-3, atol=ROUNDING[reward.name])


def test_a_row_that_score_answers_with_a_status_is_nan_and_leaves_the_others_alone(reward, rows):
    source, edited = (images[:4].clone() for images in rows.tensors())
    source[2] = torch.rand(source[2].shape, generator=torch.Generator().manual_seed(0))  # not of the shapes world
    edited[3, 0, 5, 5] = torch.nan
    edited.requires_grad_()
    texts = [rows.instructions[0], "  ", *rows.instructions[2:4]]
    overall = reward.tensor(source, edited, texts)
    assert overall.isnan().tolist() == [False, True, True, True]
    overall[overall.isfinite()].sum().backward()
    assert edited.grad[0].abs().sum() > 0 and (edited.grad[1:] == 0).all()
    alone = reward.tensor(source[:1], edited[:1], texts[:1])
    torch.testing.assert_close(alone, overall[:1], atol=1e-5, rtol=0)
    noise = Image.fromarray((source[2].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    statuses = [s.status for s in reward.score([Edit("", *rows.edited[:2]), Edit(texts[2], noise, rows.edited[2])])]
    assert statuses == ["not_applicable"] * 2
    assert reward.tensor(source[:0], edited[:0], []).shape == (0,)
    assert reward.tensor(source[1:2], edited[1:2], ["  "]).isnan().all()


def test_what_is_wrong_with_the_call_is_said(reward, rows):
    images, texts = stacked(rows.sources[:2]), ["x"] * 2
    for source, edited, instructions, message in (
        (images * 255, images, texts, r"source must lie in \[0, 1\], it goes from"),
        (images, images * 2 - 1, texts, r"edited must lie in \[0, 1\], it goes from"),
        (images[0], images, texts, "source must be floating-point images"),
        (images, images[:, :1], texts, r"edited must be .* \[2, 1, 64, 64\]"),
        (images, (images * 255).byte(), texts, "edited must be .* got torch.uint8"),
        (images, images[..., :0], texts, r"edited must be .* \[2, 3, 64, 0\]"),
        (images, images, ["x"], "source holds 2 images for 1 instructions"),
    ):
        with pytest.raises(ValueError, match=message):
            reward.tensor(source, edited, instructions)


def test_source_and_edit_may_differ_in_size_and_dtype(reward, rows):
    small = [image.resize((56, 56), Image.Resampling.BICUBIC) for image in rows.edited[:3]]
    expected = reward.score([Edit(*row) for row in zip(rows.instructions[:3], rows.sources, small)])
    overall = reward.tensor(stacked(rows.sources[:3]), stacked(small, torch.float64), rows.instructions[:3])
    assert overall.tolist() == pytest.approx([score.overall for score in expected], abs=0.03)
