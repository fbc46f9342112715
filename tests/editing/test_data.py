"""Tasks from the shapes world and from files, evaluation with paired noise, image grids."""

import csv
import json
import math
import re
from pathlib import Path

import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from editing.data import TaskConfig, first_tasks, load_tasks
from editing.evaluation import Evaluation, compare, evaluate, sample
from editing.grids import Row, grid
from mmreward.config import ConfigError
from mmreward.reward import Reward
from mmreward.score import Score


def test_shapes_tasks_are_deterministic_and_hide_the_target_from_the_reward():
    config = TaskConfig(split="validation", kinds=("recolour",), seed=3)
    task, again = load_tasks(config).task(5), load_tasks(config).task(5)
    assert task.id == again.id and task.source.tobytes() == again.source.tobytes()
    assert task.source_caption and task.target_caption and task.meta["kind"] == "recolour"
    assert not task.edit(task.source).has("target") and task.edit(task.source, with_target=True).has("target")
    assert load_tasks(TaskConfig(split="train", kinds=("recolour",), seed=3)).task(5).id != task.id


@pytest.fixture
def rows(tmp_path):
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    lines = [{"id": f"r{n}", "text": f"make it {n}", "source": f"{n}.png", "target": "0.png"} for n in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_is_dealt_whole_and_in_a_new_order_each_time_around(rows):
    tasks = load_tasks(TaskConfig(file=rows, map={"instruction": "text"}))
    first = [tasks.task(index) for index in range(4)]
    assert sorted(task.instruction for task in first) == [f"make it {n}" for n in range(4)]
    orders = {tuple(tasks.task(4 * around + n).instruction for n in range(4)) for around in range(6)}
    assert len(orders) > 1
    assert len({tasks.task(index).id for index in range(24)}) == 24
    assert first[0].edit(first[0].source, with_target=True).has("target")


def test_rows_that_cannot_be_used_are_left_out_and_named(rows, tmp_path):
    with pytest.raises(ValueError, match="instruction"):
        load_tasks(TaskConfig(file=rows))
    config = TaskConfig(file=rows, map={"instruction": "text"})
    (tmp_path / "2.png").write_bytes(b"no image")
    tasks, again = load_tasks(config), load_tasks(config)
    dealt = [tasks.task(index) for index in range(8)]
    assert [task.id for task in dealt] == [again.task(index).id for index in range(8)]
    assert len({task.id for task in dealt}) == 8 and sum(" for r2" in task.id for task in dealt) == 2
    assert "make it 2" not in {task.instruction for task in dealt}
    assert list(tasks.unreadable) == ["r2"] and "is not an image" in tasks.unreadable["r2"]
    assert sorted(task.id for task in first_tasks(load_tasks(config), 3)) == ["r0", "r1", "r3"]  # none twice
    assert len({task.id for task in first_tasks(load_tasks(config), 7)}) == 7
    (tmp_path / "2.png").unlink()
    tasks = load_tasks(config)
    assert [row.id for row in tasks.rows] == ["r0", "r1", "r3"] and "2.png' not found" in tasks.unreadable["r2"]
    lines = rows.read_text()
    for line, message in (
        ('{"id": "r4", "text": "x"}', "source image missing"),
        ('{"id": "r4", "text": " ", "source": "1.png"}', "the instruction is empty"),
        ('{"id": "r4", "text": "x", "source": "1.png", "target": "9.png"}', "target image .*9.png' not found"),
    ):
        rows.write_text("".join(part for part in lines.splitlines(True) if "2.png" not in part) + line + "\n")
        assert re.search(message, load_tasks(config).unreadable["r4"])


def test_a_file_without_a_row_that_can_be_used_is_refused(rows, tmp_path):
    config = TaskConfig(file=rows, map={"instruction": "text"})
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    tasks = load_tasks(config)
    for deal in (lambda: tasks.task(0), lambda: first_tasks(tasks, 2)):
        with pytest.raises(ConfigError, match=r"none of 4 rows can be read; the first is row r\d: .*is not an"):
            deal()
    for number in range(4):
        (tmp_path / f"{number}.png").unlink()
    with pytest.raises(ConfigError, match="none of its 4 rows can be used; the first is row r0: .*not found"):
        load_tasks(config)


def test_the_column_target_is_the_known_good_result(rows):
    rows.write_text(rows.read_text().replace('"target"', '"target"'))
    task = load_tasks(TaskConfig(file=rows, map={"instruction": "text"})).task(0)
    assert task.edit(task.source, with_target=True).image("target").getpixel((0, 0)) == (0, 0, 0)


def test_folders_of_triplets(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "instruction.txt").write_text("make it red")
        for file in ("source", "target"):
            Image.new("RGB", (8, 8), "red").save(tmp_path / name / f"{file}.png")
    tasks = load_tasks(TaskConfig(file=tmp_path))
    assert sorted(tasks.task(index).id for index in range(2)) == ["a", "b"]
    assert tasks.task(0).edit(tasks.task(0).source, with_target=True).has("target")


RECORDS = [
    {"id": "one", "instruction": "make it red, all of it", "criteria": "nothing else changes"},
    {"id": "two", "instruction": "remove the circle", "criteria": "the background is kept"},
]


def _write_triplets(form: str, folder: Path) -> Path:
    """`RECORDS` with a black source of 20 x 10 and a red target each; returns what a recipe names."""
    names = {"source": "{}-source.png", "target": "{}-target.jpg"}
    for record in RECORDS:
        Image.new("RGB", (20, 10)).save(folder / names["source"].format(record["id"]))
        Image.new("RGB", (20, 10), "red").save(folder / names["target"].format(record["id"]))
    paths = [record | {name: file.format(record["id"]) for name, file in names.items()} for record in RECORDS]
    if form == "jsonl":
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in paths))
    elif form in ("csv", "imagefolder"):
        renamed = {"source": "source_file_name", "target": "target_file_name"} if form == "imagefolder" else {}
        rows = [{renamed.get(name, name): value for name, value in row.items()} for row in paths]
        with (folder / ("metadata.csv" if renamed else "rows.csv")).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        stored = [row | {n: {"bytes": (folder / row[n]).read_bytes(), "path": row[n]} for n in names} for row in paths]
        table = pyarrow.Table.from_pylist(stored)
        if form == "saved":
            with pyarrow.ipc.new_stream(folder / "data-00000-of-00001.arrow", table.schema) as writer:
                writer.write_table(table)
            (folder / "state.json").write_text("{}")
        else:
            place = folder / ("data/train-00000-of-00001.parquet" if form == "hub" else "rows.parquet")
            place.parent.mkdir(exist_ok=True)
            parquet.write_table(table, place)
    files = {"jsonl": "rows.jsonl", "csv": "rows.csv", "parquet": "rows.parquet"}
    return folder / files[form] if form in files else folder


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "imagefolder", "hub", "saved"])
def test_triplets_come_in_every_form(form, tmp_path):
    tasks = load_tasks(TaskConfig(file=_write_triplets(form, tmp_path)))
    found = {task.id: task for task in (tasks.task(index) for index in range(2))}
    for row, record in enumerate(RECORDS):
        task = found[record["id"]]
        assert (task.instruction, task.criteria) == (record["instruction"], record["criteria"])
        assert task.source.size == tasks.size(row) == (20, 10)
        red = task.edit(task.source, with_target=True).image("target").getpixel((5, 5))
        assert red[0] > 250 and red[1] < 5


def test_evaluation_noise_is_paired(random_editor):
    tasks = [load_tasks(TaskConfig(split="validation")).task(index) for index in range(3)]
    once, twice = (sample(random_editor, tasks, 2) for _ in range(2))
    assert [image.tobytes() for image in once] == [image.tobytes() for image in twice]
    alone = sample(random_editor, tasks[1:2], 2)[0]
    difference = torch.tensor(list(alone.tobytes())) - torch.tensor(list(once[1].tobytes()))
    assert difference.abs().max() <= 1  # the same noise in another batch
    assert sample(random_editor, tasks[:1], 2, noise="other")[0].tobytes() != once[0].tobytes()


def test_evaluation_counts_failures_and_never_invents(random_editor):
    class Half(Reward):
        name, dims = "half", ("instruction_following",)

        def score(self, edits):
            ok = Score(0.75, {"instruction_following": 0.5}, raw={"success": 1.0})
            return [ok, Score.failed("parse_error", "unreadable")] * (len(edits) // 2)

    tasks = [load_tasks(TaskConfig(split="validation")).task(index) for index in range(4)]
    summary = evaluate(random_editor, tasks, Half(), 1).summary()
    assert summary == {
        "overall": 0.75,
        "tasks": 4,
        "statuses": {"ok": 2, "parse_error": 2},
        "instruction_following": 0.5,
        "success": 0.5,
    }
    nothing = Evaluation((Score.failed("timeout", "late"),), ())
    assert math.isnan(nothing.overall) and nothing.success is None


def test_compare_uses_pairs_scored_both_times():
    failed = Score.failed("timeout", "late")
    before = Evaluation((Score(0.1), Score(0.2), failed, Score(0.5)), ())
    after = Evaluation((Score(0.3), Score(0.6), Score(0.9), failed), ())
    found = compare(before, after)
    # changes 0.2 and 0.4: mean 0.3, deviation 0.1414, standard error 0.1
    assert found == {"change": pytest.approx(0.3), "standard_error": pytest.approx(0.1), "pairs": 2}


def test_grid_sorts_candidates_by_score():
    plain = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    scores = [Score(0.2), Score.failed("timeout", "late"), Score(0.9)]
    sheet = grid([Row(Image.new("RGB", (8, 8), "black"), "make it", plain, scores)], side=32)
    seen = [sheet.getpixel((4 + column * 36 + 16, 4 + 16 + 16)) for column in range(4)]
    assert seen == [(0, 0, 0), (0, 0, 255), (255, 0, 0), (0, 255, 0)]
