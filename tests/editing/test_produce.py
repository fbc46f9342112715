"""Data sets of edits: the folder, its rows, ranking, failures, and going on after a kill."""

import copy
import json

import numpy as np
import pytest
import torch
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
    part.write_bytes(part.read_bytes() + '{"task": "c", "id": "猫'.encode()[:-1])  # killed in the middle of a letter
    other = Settings("random", members=3, steps=3, seed=0, reward="redness", tasks="three")
    with pytest.raises(ValueError, match=r"unfinished run with other settings \(steps 2, now 3\); .*--overwrite"):
        produce(tasks, random_editor, Redness(), other, tmp_path / "cut")
    resumed = []
    produce(tasks, random_editor, Redness(), SETTINGS, tmp_path / "cut", batch=3, on_resume=resumed.append)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole") and resumed == [2]
    with pytest.raises(FileExistsError, match="already holds edits"):
        produce(tasks, random_editor, Redness(), SETTINGS, tmp_path / "cut")
    produce(tasks[:1], random_editor, None, other, tmp_path / "cut", overwrite=True)
    assert [row["task"] for row in _rows(tmp_path / "cut")] == ["a"] * 3
    assert [path.name for path in (tmp_path / "cut" / "images").iterdir()] == ["a"]


def test_ids_must_be_unique(random_editor, tmp_path):
    with pytest.raises(ValueError, match="'a' occurs twice"):
        produce([_task("a"), _task("a")], random_editor, None, SETTINGS, tmp_path)


@pytest.mark.parametrize("ids", [("猫", "狗"), ("x/y", "x_y"), ("A", "a"), ("x" * 300, "x" * 301), (".", "..")])
def test_each_id_has_its_own_folder(random_editor, tmp_path, ids):
    settings = Settings("random", members=1, steps=1, seed=0, reward=None, tasks="two")
    tasks = [Task(name, Image.new("RGB", (64, 64), (90 * place, 0, 0)), "x") for place, name in enumerate(ids)]
    produce(tasks, random_editor, None, settings, tmp_path)
    rows = _rows(tmp_path)
    assert [row["task"] for row in rows] == list(ids)
    assert [Image.open(tmp_path / row["source"]).getpixel((0, 0))[0] for row in rows] == [0, 90]
    folders = {str(row["source"]).lower() for row in rows}  # as file systems see them that do not tell cases apart
    assert len(folders) == 2


def test_a_table_that_was_scored_before_gives_no_scores_to_new_edits(random_editor, tmp_path):
    produce([_task("a"), _task("b", 1)], random_editor, Redness(), SETTINGS, tmp_path / "first")
    rows = read_rows(tmp_path / "first")
    again = [Task(row.id, Image.open(row.images["source"]), row.instruction, meta=dict(row.meta)) for row in rows]
    settings = Settings("random", members=2, steps=1, seed=1, reward=None, tasks="first")

    def killed():
        if (tmp_path / "second" / "edits.jsonl.part").read_text().count("\n") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        produce(again, random_editor, None, settings, tmp_path / "second", batch=2, on_task=killed)
    produce(again, random_editor, None, settings, tmp_path / "second", batch=2)
    found = _rows(tmp_path / "second")
    assert [row["task"] for row in found] == [task.id for task in again for _ in range(2)] and len(found) == 12
    before = {row["id"]: row for row in _rows(tmp_path / "first")}
    for row in found:
        assert not {"overall", "scores", "rank", "reward"} & set(row)
        old = before[row["task"]]
        assert row["input_overall"] == old["overall"] and row["input_task"] == old["task"]
        assert row["input_rank"] == old["rank"] and (row["seed"], row["input_seed"]) == (1, 0)


def _with_nan_for(editor, red: int):
    """`editor`, whose network gives NaN for sources of this red."""
    broken = copy.copy(editor)

    def predict(x, t, condition):
        found = editor.predict(x, t, condition)
        wrong = [bool((source == of_red).all()) for source in condition.tensors["source"]]
        rows = torch.tensor(wrong).view(-1, 1, 1)
        return type(found)(found.x0.masked_fill(rows, torch.nan), found.eps)

    source = Image.new("RGB", (64, 64), (red, 0, 0))
    of_red = editor.encode([source], ["x"])[0].tensors["source"][0]
    broken.predict = predict
    return broken


def test_an_output_that_is_not_finite_is_a_failed_row_and_no_image(random_editor, tmp_path):
    settings = Settings("random", members=2, steps=2, seed=0, reward="redness", tasks="three")
    tasks = [Task(str(red), Image.new("RGB", (64, 64), (red, 0, 0)), "x") for red in (10, 20, 30)]
    editor = _with_nan_for(random_editor, red=20)
    result = produce(tasks, editor, Redness(), settings, tmp_path / "one")
    produce([tasks[0], tasks[2]], editor, Redness(), settings, tmp_path / "without")
    rows = _rows(tmp_path / "one")
    failed, rest = ([row for row in rows if (row["task"] == "20") == wanted] for wanted in (True, False))
    assert result.failed == 2 and rest == _rows(tmp_path / "without")
    for row in failed:
        assert row["status"] == "error" and row["overall"] is None and row["edited"] is None
        assert "not finite" in row["error"] and "autocast" in row["error"]
    assert [path.name for path in (tmp_path / "one" / "images" / "20").iterdir()] == ["source.png"]


def test_what_raises_for_one_task_fails_that_task_alone(random_editor, tmp_path):
    class Raises(Redness):
        def _one(self, edit):
            if edit.id == "b":
                raise RuntimeError("the library's own words")
            return super()._one(edit)

    editor = copy.copy(random_editor)
    editor.encode = lambda sources, texts: _encode_or_raise(random_editor, sources, texts)
    tasks = [_task("a"), _task("b", 1), Task("c", _task("c", 2).source, "too much"), _task("d", 3)]
    result = produce(tasks, editor, Raises(), SETTINGS, tmp_path, batch=12)
    rows = {name: [row for row in result.rows if row["task"] == name] for name in "abcd"}
    assert {row["status"] for row in rows["a"] + rows["d"]} == {"ok"} and result.failed == 6
    assert all(row["status"] == "error" and "the library's own words" in row["error"] for row in rows["b"])
    assert all(row["edited"] and row["overall"] is None for row in rows["b"])
    assert all(row["edited"] is None and "OutOfMemoryError: no room" in row["error"] for row in rows["c"])


def _encode_or_raise(editor, sources, texts):
    if "too much" in texts:
        raise torch.OutOfMemoryError("no room")
    return editor.encode(sources, texts)


def test_a_source_outside_the_domain_is_not_applicable_and_says_what_to_use(random_editor, tmp_path):
    from editing.data import ShapesTasks, TaskConfig

    editor = copy.copy(random_editor)
    editor.domain = "shapes"
    tasks = [_task("photo", side=48), ShapesTasks(TaskConfig()).task(0), Task("plain", Image.new("RGB", (64, 64)), "x")]
    settings = Settings("folder?steps=2", members=1, steps=1, seed=0, reward="redness", tasks="three")
    result = produce(tasks, editor, Redness(), settings, tmp_path)
    photo, *others = result.rows
    assert photo["status"] == "not_applicable" and photo["overall"] is None and photo["edited"] is None
    assert "FLUX.1-Kontext" in photo["error"] and "'folder?steps=2&domain=any'" in photo["error"]
    assert photo["kind"] == "recolour" and [row["status"] for row in others] == ["ok", "ok"] and result.failed == 0


def test_input_columns_never_replace_others():
    from mmreward.batch.columns import input_columns

    columns = {"overall": 1, "input_overall": 2, "note": 3}
    assert input_columns(columns, {"overall"}) == {"input_overall": 2, "note": 3, "input_input_overall": 1}
    assert input_columns(columns, {"overall", "input_overall"}) == {
        "note": 3,
        "input_input_overall": 1,
        "input_input_input_overall": 2,
    }
