"""Sources of any size: buckets, edits at the size of their source, batches and iterations of one bucket."""

import json
import math

import numpy as np
import pytest
from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
from PIL import Image, ImageFilter

from editing.collect import Clock, collect
from editing.data import Task, TaskConfig, load_tasks
from editing.deal import Dealer, batches
from editing.editors.buckets import bucket
from editing.editors.kontext import KontextEditor
from editing.evaluation import evaluate, sample
from editing.precision import AS_IT_IS
from editing.produce import Settings, produce
from editing.recipe import RolloutConfig
from mmreward import Edit, load_reward
from mmreward.edit import ImageError, image_size

SHAPES = [(64, 64), (96, 64), (64, 96), (97, 64), (128, 56)]
"""Width, height; the second and the fourth share a bucket of the random editor."""


def _photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something smooth with grain, as a photo is."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (8, 8, 3), dtype=np.uint8)).resize((width, height))
    grain = random.normal(0, 4, (height, width, 3))
    pixels = np.asarray(coarse.filter(ImageFilter.GaussianBlur(2)), float) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _tasks() -> list[Task]:
    return [Task(f"t{n}", _photo(*size, n), "make the circle blue") for n, size in enumerate(SHAPES)]


@pytest.fixture
def table(tmp_path):
    """A file of photos of several shapes: 12 of three to two, 5 square, 1 tall."""
    shapes = [(96, 64)] * 12 + [(64, 64)] * 5 + [(40, 90)]
    for number, size in enumerate(shapes):
        _photo(*size, number).save(tmp_path / f"{number}.png")
    lines = [{"id": f"r{n}", "instruction": "remove the circle", "source": f"{n}.png"} for n in range(len(shapes))]
    path = tmp_path / "photos.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_kontext_has_the_shapes_that_it_was_trained_on():
    for width, height in PREFERRED_KONTEXT_RESOLUTIONS:
        assert bucket(width, height, 1024 * 1024, 16, KontextEditor.shapes) == (height, width)
    random = np.random.default_rng(0)
    for ratio in np.exp(random.uniform(math.log(0.4), math.log(2.5), 200)):
        wanted = min(abs(math.log(ratio * h / w)) for w, h in PREFERRED_KONTEXT_RESOLUTIONS)
        height, width = bucket(round(3000 * ratio), 3000, 1024 * 1024, 16, KontextEditor.shapes)
        assert abs(math.log(ratio * height / width)) == pytest.approx(wanted, abs=2e-3)
    assert bucket(1024, 683, 512 * 512, 16, KontextEditor.shapes) == (416, 624)


def test_an_edit_has_the_size_of_its_source():
    task = Task("a", _photo(97, 64), "make it red", meta={"kind": "recolour"})
    edit = task.edit(_photo(96, 48))
    assert edit.image("edited").size == (97, 64) and edit.meta == {"kind": "recolour", "generated": "96x48"}
    same = _photo(97, 64, 1)
    assert task.edit(same).image("edited").tobytes() == same.tobytes() and task.edit(same).meta == {"kind": "recolour"}


def test_evaluation_of_sources_of_several_shapes(random_editor):
    tasks = _tasks()
    found = evaluate(random_editor, tasks, load_reward("pixels"), 2, batch=2)
    assert [score.status for score in found.scores] == ["ok"] * len(tasks)
    assert [image.size for image in found.images] == SHAPES
    together, alone = sample(random_editor, tasks, 2), [sample(random_editor, [task], 2)[0] for task in tasks]
    for one, other, task in zip(together, alone, tasks, strict=True):
        assert one.size == other.size == random_editor.edit_size(*task.source.size)[::-1]
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1  # the same noise, another batch


def test_a_data_set_of_several_shapes_is_saved_as_it_was_scored(random_editor, tmp_path):
    settings = Settings("random", members=2, steps=2, seed=0, reward="pixels", tasks="five")
    reward = load_reward("pixels")
    rows = produce(_tasks(), random_editor, reward, settings, tmp_path).rows
    assert [row["status"] for row in rows] == ["ok"] * 10
    for row in rows:
        source, edited = (Image.open(tmp_path / row[name]) for name in ("source", "edited"))
        assert source.size == edited.size == SHAPES[int(row["task"][1:])]
        height, width = random_editor.edit_size(*source.size)
        assert row.get("generated") == (None if source.size == (width, height) else f"{width}x{height}")
        (score,) = reward.score([Edit(row["instruction"], tmp_path / row["source"], tmp_path / row["edited"])])
        assert score.overall == pytest.approx(row["overall"], abs=1e-6)


def test_batches_have_one_size_and_keep_the_order():
    found = list(batches(["a", "b", "a", "a", "b", "a"], 3))
    assert found == [[0, 2, 3], [5], [1, 4]]


def test_iterations_have_one_bucket_and_rows_their_share(random_editor, table):
    dealer = Dealer(load_tasks(TaskConfig(file=table)), random_editor, 3)
    dealt = [dealer.tasks(iteration) for iteration in range(36)]  # 108 tasks: each row six times
    for tasks in dealt:
        assert len({random_editor.edit_size(*task.source.size) for task in tasks}) == 1
        assert len({task.id for task in tasks}) == 3
    times = [sum(task.id.split("/")[0] == f"r{row}" for tasks in dealt for task in tasks) for row in range(18)]
    assert set(times) == {6}
    again = Dealer(load_tasks(TaskConfig(file=table)), random_editor, 3)
    assert [task.id for task in again.tasks(20)] == [task.id for task in dealt[20]]  # a resumed run
    other = Dealer(load_tasks(TaskConfig(file=table, seed=1)), random_editor, 3)
    assert [[task.id for task in other.tasks(n)] for n in range(6)] != [[t.id for t in tasks] for tasks in dealt[:6]]


def test_an_iteration_of_photos_is_collected(random_editor, table):
    dealer = Dealer(load_tasks(TaskConfig(file=table)), random_editor, 2)
    config = RolloutConfig(groups=2, members=2, steps=2, window=1)
    for iteration in range(3):
        tasks = dealer.tasks(iteration)
        batch = collect(random_editor, tasks, config, range(1), f"{iteration}", AS_IT_IS, _started())
        assert all(edit.image("edited").size == edit.image("source").size for edit in batch.edits)


def test_a_row_that_cannot_be_read_is_replaced_by_one_of_its_bucket(random_editor, table):
    """Row 3 (three to two) is cut off, row 14 (square) has no header."""
    photo = table.parent / "3.png"
    photo.write_bytes(photo.read_bytes()[:600])
    (table.parent / "14.png").write_bytes(b"nothing")
    whole, parted = (Dealer(load_tasks(TaskConfig(file=table)), random_editor, 4) for _ in range(2))
    dealt = [whole.tasks(iteration) for iteration in range(24)]
    for tasks in dealt:
        assert len({random_editor.edit_size(*task.source.size) for task in tasks}) == 1
        assert len({task.id for task in tasks}) == 4  # each has noise of its own
    ids = [task.id for tasks in dealt for task in tasks]
    assert any(name.endswith(" for r3") for name in ids) and not any(
        name.split("/")[0] in ("r3", "r14") for name in ids
    )
    assert set(whole.all.unreadable) == {"r3", "r14"} and "is truncated" in whole.all.unreadable["r3"]
    again = [[task.id for task in parted.tasks(iteration, (1, 3))] for iteration in range(24)]
    assert again == [[tasks[1].id, tasks[3].id] for tasks in dealt]  # another process, which opens its share alone


def test_processes_leave_out_the_same_rows(random_editor, table):
    other_lacks = Dealer(load_tasks(TaskConfig(file=table)), random_editor, 3, lambda mine: [mine, [0, 1]])
    assert sorted(number for pile in other_lacks.piles.values() for number in pile) == list(range(2, 18))


def _started() -> Clock:
    clock = Clock()
    clock.start()
    return clock


def test_tasks_without_a_file_and_files_of_one_shape_come_in_their_own_order(random_editor, table):
    worlds = load_tasks(TaskConfig(split="validation"))
    assert [t.id for t in Dealer(worlds, random_editor, 2).tasks(1)] == [worlds.task(n).id for n in (2, 3)]
    lines = table.read_text().splitlines(True)
    table.write_text("".join(lines[:12]))
    files = load_tasks(TaskConfig(file=table))
    assert [t.id for t in Dealer(files, random_editor, 2).tasks(7)] == [files.task(n).id for n in (14, 15)]


def test_large_sources_are_shrunk_where_it_is_asked(table):
    tasks = load_tasks(TaskConfig(file=table, max_area=48 * 32))
    shapes = {(tasks.dealt(range(18), row, 0).source.size, tasks.size(row)) for row in range(18)}
    assert shapes == {((48, 32), (48, 32)), ((39, 39), (39, 39)), ((26, 59), (26, 59))}


def test_sizes_are_read_from_headers(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    _photo(30, 20).save(tmp_path / "turned.jpg", exif=exif)
    _photo(30, 20).save(tmp_path / "turned.png", exif=exif)
    _photo(30, 20).save(tmp_path / "plain.png")
    assert image_size(tmp_path / "turned.jpg") == image_size(tmp_path / "turned.png") == (20, 30)
    assert image_size((tmp_path / "plain.png").read_bytes()) == image_size(_photo(30, 20)) == (30, 20)
    with pytest.raises(ImageError, match="not found"):
        image_size(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match="is not an image"):
        image_size(tmp_path / "text.png")
