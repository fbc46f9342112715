"""The engine: order, whole groups, and rewards that break their word."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from mmreward import ImageError, Reward, Score
from mmreward.batch import Row, read_rows, score_rows


class Rank(Reward):
    """Compares: the share of the others of its run of candidates that an edit is redder than."""

    name, dims = "rank", ()
    needs_group = True

    def __init__(self):
        self.batches = []

    def score(self, edits):
        self.batches.append([edit.id for edit in edits])
        return [self.rank(edit, edits) for edit in edits]

    def rank(self, edit, edits):
        try:
            edit.image("source")
        except ImageError as error:
            return Score.failed("io_error", error.message)
        reds = [red(other) for other in edits if other.source != b"no image" and other.group == edit.group]
        return Score(sum(red(edit) > other for other in reds) / max(len(reds) - 1, 1))


def red(edit):
    return edit.image("edited").getpixel((0, 0))[0]


def picture(*colour):
    return Image.new("RGB", (4, 4), colour)


def candidates(source, count, start=0):
    """Rows of one source, each redder than the one before."""
    return [
        Row(f"{source}{n}", {"instruction": "x"}, {"source": picture(0, 0, source), "edited": picture(20 * n, 0, 0)})
        for n in range(start, start + count)
    ]


def overalls(rows, size, reward=None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {one.row.id: one.score.overall for one in score_rows(rows, reward or Rank(), size)}


def test_scores_do_not_depend_on_the_batch_size_and_keep_the_order():
    rows = [*candidates(1, 5), *candidates(2, 3), *candidates(3, 8), *candidates(4, 1)]
    expected = {row.id: value for row, value in zip(
        rows, [*np.arange(5) / 4, *np.arange(3) / 2, *np.arange(8) / 7, 0.0], strict=True)}  # fmt: skip
    for size in (1, 2, 3, 4, 7, 8, 16, 100):
        reward = Rank()
        scores = overalls(rows, size, reward)
        assert list(scores) == [row.id for row in rows] and scores == pytest.approx(expected)
        assert max(map(len, reward.batches)) <= max(size, 8)
    reward = Rank()
    overalls(rows, 8, reward)
    assert [len(batch) for batch in reward.batches] == [8, 8, 1]


def test_rows_that_cannot_be_opened_end_no_group(tmp_path):
    good = candidates(1, 4)
    broken = Row("broken", {"instruction": "x"}, {"source": b"no image", "edited": picture(0, 0, 0)})
    unread = Row("unread", error="line 3 is not JSON")
    for size in (1, 2, 5, 50):
        scored = list(score_rows([good[0], broken, good[1], unread, *good[2:]], Rank(), size))
        assert [one.row.id for one in scored] == ["10", "broken", "11", "unread", "12", "13"]
        assert [one.score.overall for one in scored if one.score.ok] == pytest.approx([0, 1 / 3, 2 / 3, 1])
        assert [one.score.status for one in scored if not one.score.ok] == ["io_error"] * 2
    many = [Row(str(n), {"instruction": "x"}, {"source": b"no image"}) for n in range(20)]
    reward = Rank()
    assert len(list(score_rows(many, reward, 4))) == 20 and max(map(len, reward.batches)) <= 4


def test_a_group_met_again_is_a_warning_with_its_count():
    rows = [*candidates(1, 2), *candidates(2, 2), *candidates(1, 2, start=2), *candidates(2, 1, start=2)]
    for size in (1, 3, 100):
        said = []
        scored = [one.score.overall for one in score_rows(rows, Rank(), size, said.append)]
        assert scored == [0, 1, 0, 1, 0, 1, 0]  # each run for itself, whatever the batch
        assert len(said) == 1 and said[0].startswith("2 groups (candidates of one source and instruction) came again")
    with pytest.warns(UserWarning, match="2 groups"):
        list(score_rows(rows, Rank()))


class Constant(Reward):
    name, dims = "constant", ()

    def __init__(self, more=0):
        self.more, self.sizes = more, []

    def score(self, edits):
        self.sizes.append(len(edits))
        return [Score(0.5)] * (len(edits) + self.more)


def test_a_reward_without_groups_gets_exact_batches():
    reward = Constant()
    list(score_rows([*candidates(1, 5), *candidates(1, 5)], reward, 3))
    assert reward.sizes == [3, 3, 3, 1]


@pytest.mark.parametrize("more", [-1, 1])
def test_another_number_of_scores_is_an_error_that_names_the_reward(more):
    with pytest.raises(ValueError, match=f"the reward 'constant' returned {3 + more} scores for 3 edits"):
        list(score_rows(candidates(1, 3), Constant(more)))


def test_rows_keep_no_images(tmp_path):
    picture(1, 2, 3).save(tmp_path / "a.png")
    (tmp_path / "e.jsonl").write_text(json.dumps({"instruction": "x", "source": "a.png", "edited": "a.png"}))
    (one,) = score_rows(read_rows(tmp_path / "e.jsonl"), Constant())
    assert one.score.ok and not one.row.images and one.row.instruction == "x"
