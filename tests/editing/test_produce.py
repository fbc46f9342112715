"""Data sets of edits: the folder, its rows, ranking, failures, and going on after a kill."""

import json

import numpy as np
import pytest
from PIL import Image

from editing.data import Task
from editing.produce import Broken, Settings, produce
from mmreward.batch import read_rows
from mmreward.reward import Reward
from mmreward.score import Score


class Redness(Reward):
    """A reward that likes red; it cannot score the task called "odd"."""

    name, dims = "redness", ("quality",)

    def score(self, edits):
        return [self._one(edit) for edit in edits]

    def _one(self, edit):
        if edit.id == "odd":
            return Score.failed("timeout", "too slow")
        value = float(np.asarray(edit.image("edited"))[..., 0].mean() / 255)
        return Score(value, {"quality": value})


def _task(name: str, seed: int = 0, side: int = 64) -> Task:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, 64, 3), dtype=np.uint8)
    return Task(name, Image.fromarray(pixels), "make the circle blue", meta={"kind": "recolour"})


SETTINGS = Settings("random", members=3, steps=2, seed=0, reward="redness", tasks="three")


def _rows(folder):
    return [json.loads(line) for line in (folder / "edits.jsonl").read_text().splitlines()]


def test_edits_are_ranked_and_can_be_scored_again(random_editor, tmp_path):
    result = produce([_task("a"), _task("b/c", 1)], random_editor, Redness(), SETTINGS, tmp_path)
    rows = _rows(tmp_path)
    assert result.rows == rows and result.failed == 0 and len(rows) == 6
    for name in ("a", "b/c"):
        own = [row for row in rows if row["task"] == name]
        assert [row["rank"] for row in own] == [1, 2, 3]
        assert sorted(row["member"] for row in own) == [0, 1, 2]
        assert own[0]["overall"] >= own[1]["overall"] >= own[2]["overall"]
    scored = Redness().score([row.edit() for row in read_rows(tmp_path)])
    assert [score.overall for score in scored] == pytest.approx([row["overall"] for row in rows])
    assert rows[0]["kind"] == "recolour" and not (tmp_path / "settings.json").exists()


def test_a_failed_score_keeps_the_edit_and_a_broken_row_its_place(random_editor, tmp_path):
    tasks = [Broken("gone", "make it red", "source image 'x.png' not found"), _task("odd"), _task("fine", 1)]
    result = produce(tasks, random_editor, Redness(), SETTINGS, tmp_path)
    rows = _rows(tmp_path)
    assert result.failed == 4
    assert rows[0]["status"] == "io_error" and rows[0]["edited"] is None and "x.png" in rows[0]["error"]
    assert [row["status"] for row in rows[1:4]] == ["timeout"] * 3 and rows[1]["overall"] is None
    assert (tmp_path / rows[1]["edited"]).is_file()


def test_sources_of_several_sizes_and_no_reward(random_editor, tmp_path):
    settings = Settings("random", members=1, steps=2, seed=0, reward=None, tasks="two")
    produce([_task("square"), _task("flat", 1, side=32)], random_editor, None, settings, tmp_path)
    square, flat = _rows(tmp_path)
    assert "rank" not in square and square["id"] == "square"
    assert Image.open(tmp_path / flat["edited"]).size == (64, 32) and flat["generated"] == "96x48"
    assert "generated" not in square


def test_a_killed_run_goes_on_and_loses_nothing(random_editor, tmp_path):
    tasks = [_task(name, seed) for seed, name in enumerate("abc")]
    produce(tasks, random_editor, Redness(), SETTINGS, tmp_path / "whole")

    calls = []

    def killed():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce(tasks, random_editor, Redness(), SETTINGS, tmp_path / "cut", batch=3, on_task=killed)
    part = tmp_path / "cut" / "edits.jsonl.part"
    part.write_text(part.read_text() + '{"task": "c", "id": "c/0", "edit')  # killed in the middle of a row
    other = Settings("random", members=3, steps=3, seed=0, reward="redness", tasks="three")
    with pytest.raises(ValueError, match="unfinished run with other settings"):
        produce(tasks, random_editor, Redness(), other, tmp_path / "cut")
    produce(tasks, random_editor, Redness(), SETTINGS, tmp_path / "cut", batch=3)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")


def test_ids_must_be_unique(random_editor, tmp_path):
    with pytest.raises(ValueError, match="'a' occurs twice"):
        produce([_task("a"), _task("a")], random_editor, None, SETTINGS, tmp_path)
