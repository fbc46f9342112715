"""Odd images and instructions: a right score that says what was done to them, or a status; never an exception."""

import math

import pytest
from PIL import Image

from mmreward import Edit, load_reward
from mmreward.judge.reward import judge_reward
from mmreward.judge.ways import WAYS, load_way
from mmreward.shapes import World

LONG = "make the circle blue and " * 400
assert len(LONG) == 10_000


@pytest.fixture(scope="module")
def judge():
    return load_reward("vlm:tiny?domain=any&floor=0")


@pytest.fixture(scope="module")
def plain():
    """(instruction, source, edited) of an ordinary edit."""
    task = next(iter(World("validation", seed=8).tasks(1)))
    return task.instruction, Image.fromarray(task.source_image), Image.fromarray(task.target_image)


def odd_rows(instruction, source, edited):
    """Edits by name, and the sizes that the bundled judge sees of source and edited image (None: it cannot)."""
    dot, wide, thin = Image.new("RGB", (1, 1), "red"), Image.new("RGB", (12000, 100), "red"), (12000, 40)
    return {
        "1x1": (Edit(instruction, source, dot), [66, 66], [66, 66]),
        "1x1 source": (Edit(instruction, dot, edited), [66, 66], [66, 66]),
        "12000x100": (Edit(instruction, source, wide), [66, 66], [704, 22]),
        "12000x40": (Edit(instruction, source, Image.new("RGB", thin)), [66, 66], None),
        "10000 characters": (Edit(LONG, source, edited), [66, 66], [66, 66]),
        "one long word": (Edit("x" * 10_000, source, edited), [66, 66], [66, 66]),
    }


def test_the_bundled_judge_scores_them_right_or_says_why_not(judge, plain):
    rows, usual = odd_rows(*plain), Edit(*plain)
    scores = dict(zip(rows, judge.score([edit for edit, *_ in rows.values()])))
    for name, (edit, *seen) in rows.items():
        score = scores[name]
        images = {"source": edit.image("source"), "edited": edit.image("edited")}
        for (place, image), size in zip(images.items(), seen):
            told = {"given": list(image.size)} | ({"seen": size} if size else {})
            assert score.provenance["sizes"][place] == told, name
        if score.ok:
            assert 0 <= score.overall <= 1
        else:
            assert math.isnan(score.overall) and score.error, name
    assert [name for name, score in scores.items() if not score.ok] == ["12000x40", "one long word"]
    assert "12000x40" in scores["12000x40"].error
    assert "longer than the model takes (4096)" in scores["one long word"].error
    mixed = judge.score([rows["1x1"][0], usual, rows["12000x40"][0]])
    assert mixed[1].overall == pytest.approx(judge.score([usual])[0].overall, abs=1e-5)


def test_a_large_image_counts_like_the_same_image_made_small(judge, plain):
    instruction, source, edited = plain
    large = edited.resize((3000, 3000), Image.Resampling.NEAREST)
    (small,), (whole,) = (judge.score([Edit(instruction, source, image)]) for image in (edited, large))
    assert whole.overall == pytest.approx(small.overall, abs=0.15)
    assert whole.provenance["sizes"]["edited"] == {"given": [3000, 3000], "seen": [66, 66]}


@pytest.mark.parametrize("way", list(WAYS))
def test_no_way_raises_for_an_odd_row(backend, plain, way):
    options = {"floor": "0"} if way in ("expected", "pairwise") else {"max_new_tokens": "4"}
    judge = judge_reward(backend, load_way(way, options), name="x", model="x")
    rows = [edit for edit, *_ in odd_rows(*plain).values()]
    scores = judge.score([*rows, Edit(plain[0], plain[1], b"no image"), Edit("", plain[1], plain[2])])
    assert len(scores) == len(rows) + 2 and [score.status for score in scores[-2:]] == ["io_error", "not_applicable"]
    assert all(score.ok or (math.isnan(score.overall) and score.error) for score in scores)
    assert "edited" not in scores[-2].provenance["sizes"]


def test_a_preference_says_the_sizes_of_its_three_images(backend, plain):
    instruction, source, edited = plain
    judge = judge_reward(backend, load_way("pairwise", {}), name="x", model="x")
    (told,) = judge.compare([(Edit(instruction, source, edited), Edit(instruction, source, edited.resize((20, 50))))])
    assert told.provenance["sizes"] == {
        "source": {"given": [64, 64], "seen": [66, 66]},
        "first": {"given": [64, 64], "seen": [66, 66]},
        "second": {"given": [20, 50], "seen": [44, 110]},
    }


def test_what_is_sent_to_a_server_is_said(server, plain):
    instruction, source, edited = plain
    reward = load_reward(f"openai:{server.url}#m?pixels=1024&retries=0")
    (score,) = reward.score([Edit(instruction, source, edited.resize((16, 8)))])
    assert score.ok and score.provenance["sizes"] == {
        "source": {"given": [64, 64], "sent": [32, 32]},
        "edited": {"given": [16, 8], "sent": [16, 8]},
    }
    assert [image.size for image in server.images_of(server.bodies[0])] == [(32, 32), (16, 8)]


def test_text_that_is_no_text_is_asked_all_the_same(server, judge, plain):
    _, source, edited = plain
    edit = Edit("make it \ud83d blue", source, edited, criteria="\udfff")
    for reward in (judge, load_reward(f"openai:{server.url}#m?retries=0")):
        (score,) = reward.score([edit])
        assert score.ok
    assert "make it ? blue" in str(server.bodies[0])
