"""What the base of pointwise rewards promises: order, batches, and faults that stay with their row."""

import weakref
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mmreward import Edit
from mmreward.edit import ImageError
from mmreward.reward import failure_of
from mmreward.rewards import base
from mmreward.rewards.base import Pointwise
from mmreward.score import Failure, Score

SOURCE = Image.new("RGB", (8, 8))


class Breakable(Pointwise):
    """Scores by the width of the edited image, raises for an instruction that says so, and keeps its batches."""

    name, dims = "breakable", ()
    batch = 4
    _provenance = {"reward": name}

    def __init__(self):
        self.batches = []

    def measure(self, rows):
        self.batches.append([edit.instruction for edit in rows])
        for edit in rows:
            if edit.instruction == "raise":
                raise RuntimeError("CUDA error:\n  an illegal\tinstruction")
            if edit.instruction == "memory":
                raise MemoryError
        return [Score(edit.image("edited").width / 1000) for edit in rows]


def edit(width, instruction="make it blue"):
    return Edit(instruction, SOURCE, Image.new("RGB", (width, 8)))


def test_scores_come_in_order_by_batches():
    reward = Breakable()
    rows = [edit(width) for width in range(1, 11)]
    assert [score.overall for score in reward.score(rows)] == [width / 1000 for width in range(1, 11)]
    assert [len(batch) for batch in reward.batches] == [4, 4, 2] and reward.score([]) == []


def test_a_row_that_raises_changes_nothing_for_the_others():
    reward = Breakable()
    scores = reward.score([edit(1), edit(2, "raise"), edit(3, "memory"), edit(4), edit(5)])
    assert [score.status for score in scores] == ["ok", "error", "error", "ok", "ok"]
    assert [score.overall for score in scores if score.ok] == [0.001, 0.004, 0.005]
    assert scores[1].error == "RuntimeError: CUDA error: an illegal instruction" and scores[2].error == "MemoryError"
    assert all(score.provenance == {"reward": "breakable"} for score in scores)


def test_rows_that_cannot_be_opened_are_never_measured():
    reward = Breakable()
    rows = [Edit("x", "gone.png", SOURCE), Edit(" ", SOURCE, SOURCE), edit(3), Edit("x", SOURCE, b"no image")]
    assert [score.status for score in reward.score(rows)] == ["io_error", "not_applicable", "ok", "io_error"]
    assert reward.batches == [["make it blue"]]


def test_a_batch_of_large_images_ends_early(monkeypatch):
    monkeypatch.setattr(base, "_MOST_PIXELS", 300)
    reward = Breakable()
    reward.score([edit(20) for _ in range(5)])  # 64 pixels of the source and 160 of the edit
    assert [len(batch) for batch in reward.batches] == [2, 2, 1]


def test_no_more_than_a_batch_is_held():
    @dataclass(eq=False)
    class Width:
        width: int

    class Held(Pointwise):
        """What `prepare` made is counted while it lives."""

        name, dims, batch = "held", (), 4

        def __init__(self):
            self.alive, self.most = weakref.WeakSet(), 0

        def prepare(self, edit):
            row = Width(edit.image("edited").width)
            self.alive.add(row)
            self.most = max(self.most, len(self.alive))
            return row

        def measure(self, rows):
            return [Score(row.width / 1000) for row in rows]

    reward = Held()
    assert [score.overall for score in reward.score([edit(width) for width in range(1, 41)])][-1] == 0.04
    assert reward.most <= 4 and not reward.alive


def test_a_measurement_of_the_wrong_length_is_the_rewards_mistake_and_says_so():
    class Short(Breakable):
        def measure(self, rows):
            return super().measure(rows)[1:]

    with pytest.raises(ValueError, match="'breakable' returned 2 scores for 3 edits"):
        Short().score([edit(1), edit(2), edit(3)])


def test_what_prepare_says_is_the_rows_result_and_its_own_provenance_wins():
    class Picky(Pointwise):
        name, dims = "picky", ()
        _provenance = {"reward": "picky", "size": None}

        def about(self, edit):
            return {"text": "instruction"}

        def prepare(self, edit):
            if edit.image("edited").width > 5:
                return Failure("refused", "too wide")
            return np.asarray(edit.image("edited"))

        def measure(self, rows):
            return [Score(0.5, provenance={"size": row.shape[1]}) for row in rows]

    wide, narrow = Picky().score([edit(6), edit(3)])
    assert (wide.status, wide.error) == ("refused", "too wide") and wide.provenance["text"] == "instruction"
    assert narrow.provenance == {"reward": "picky", "size": 3, "text": "instruction"}


def test_what_an_exception_means_for_its_row():
    assert failure_of(ImageError("gone")) == Failure("io_error", "gone")
    assert failure_of(ImageError("too flat", "not_applicable")).status == "not_applicable"
    assert failure_of(KeyError("x")) == Failure("error", "KeyError: 'x'")
    assert len(failure_of(ValueError("x" * 9999)).error) < 600
