"""No reward for noise: what nobody can see is worth at most .02 against the untouched copy, for each bundled reward."""

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.shapes import World

pytest.importorskip("torch")
pytest.importorskip("open_clip")
pytest.importorskip("transformers")

WORTH = 0.02
DRAWS = 4
REWARDS = ("clip:tiny", "vlm:tiny", "vlm:tiny?way=checklist", "pixels", "recommended", "target", "oracle")


def one_pixel(image: np.ndarray) -> np.ndarray:
    """One grey level in one pixel."""
    changed = image.copy()
    changed[5, 5] = np.where(changed[5, 5] < 255, changed[5, 5] + 1, 254)
    return changed


def invisible(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """At most one grey level in at most one per cent of the pixels, anywhere."""
    pixels = image.reshape(-1, 3).astype(int)
    where = rng.choice(len(pixels), rng.integers(1, len(pixels) // 100 + 1), replace=False)
    pixels[where] += rng.integers(-1, 2, (len(where), 3))
    return np.clip(pixels, 0, 255).astype(np.uint8).reshape(image.shape)


def groups_of(count, captions):
    """Per task: the untouched copy first, then copies with a change that nobody sees."""
    rng = np.random.default_rng(7)
    for task in World("validation", seed=5, kept_out="include").tasks(count):
        source = task.source_image
        images = [source, one_pixel(source), *(invisible(source, rng) for _ in range(DRAWS))]
        texts = {"source_caption": task.source_caption, "target_caption": task.target_caption} if captions else {}
        target = Image.fromarray(task.target_image)
        yield [
            Edit(task.instruction, Image.fromarray(source), Image.fromarray(image), target=target, **texts)
            for image in images
        ]


@pytest.mark.parametrize("captions", [False, True], ids=["instruction", "captions"])
@pytest.mark.parametrize("spec", REWARDS)
def test_an_invisible_change_is_worth_nothing(spec, captions):
    groups = list(groups_of(8, captions))
    scores = load_reward(spec).score([edit for group in groups for edit in group])
    assert all(score.ok for score in scores)
    overall = np.asarray([score.overall for score in scores]).reshape(len(groups), -1)
    assert np.abs(overall[:, 1:] - overall[:, :1]).max() <= WORTH


def test_nor_for_a_clip_without_maps_of_its_own():
    """Direction is blind to length: an invisible move in the right direction must not count as the whole way."""
    from mmreward.rewards.clip import ClipReward
    from mmreward.rewards.clip_model import open_model

    model = open_model("tiny", "cpu")
    del model.about["maps"], model.about["weights"]
    reward = ClipReward(model)
    for captions in (False, True):
        groups = list(groups_of(8, captions))
        scores = reward.score([edit for group in groups for edit in group])
        overall = np.asarray([score.overall for score in scores]).reshape(len(groups), -1)
        assert overall[:, 0].max() == 0  # nothing done, nothing followed
        assert overall.max() <= WORTH


def test_an_untouched_copy_of_the_bundled_clip_gets_next_to_nothing():
    for captions in (False, True):
        untouched = [group[0] for group in groups_of(8, captions)]
        assert max(score.overall for score in load_reward("clip:tiny").score(untouched)) <= 0.01
