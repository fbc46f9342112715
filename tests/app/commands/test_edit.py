"""`mmreward edit` from the outside."""

import json

import numpy as np
import pytest
from PIL import Image

from app.cli import main


@pytest.fixture(scope="module")
def editor_folder(tmp_path_factory):
    """A small random editor on disk."""
    import torch

    from editing.editors.kontext import KontextEditor
    from editing.fit.tiny import EditorShape, VAEShape, tiny_pipeline, tiny_vae

    torch.manual_seed(0)
    shape = EditorShape(double_blocks=1, single_blocks=1, heads=2, head_dim=16, axes=(4, 6, 6), text_width=32)
    pipeline = tiny_pipeline(tiny_vae(VAEShape(channels=8, latent_channels=4)), ["make", "blue"], shape)
    folder = tmp_path_factory.mktemp("editor") / "random"
    KontextEditor(pipeline, "random", max_area=64 * 64, max_tokens=16, steps=2).save(folder)
    return str(folder)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((64, 64, 3), 120, dtype=np.uint8)).save(path)
    return path


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["edit", *arguments])
    return stop.value.code or 0


def _rows(folder):
    return [json.loads(line) for line in (folder / "edits.jsonl").read_text().splitlines()]


def test_one_image_sorted_by_a_reward(editor_folder, picture, tmp_path, capsys):
    call = ["--editor", editor_folder, "-s", str(picture), "-i", "make it blue", "-n", "3", "-r", "pixels"]
    assert _run(*call, "--out", str(tmp_path / "out")) == 0
    rows = _rows(tmp_path / "out")
    assert [row["rank"] for row in rows] == [1, 2, 3] and len({row["edited"] for row in rows}) == 3
    assert "3 edits of 1 tasks" in capsys.readouterr().out
    assert _run(*call, "--out", str(tmp_path / "out")) == 2
    assert "already holds edits" in capsys.readouterr().err


def test_a_data_set_with_a_missing_image(editor_folder, picture, tmp_path, capsys):
    rows = [
        {"id": "one", "instruction": "make it blue", "source": "a.png", "note": 7},
        {"id": "two", "instruction": "make it blue", "source": "gone.png"},
        {"id": "three", "instruction": "  ", "source": "a.png"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert _run(str(tmp_path / "rows.jsonl"), "-e", editor_folder, "-n", "1", "-o", str(out)) == 1
    one, two, three = _rows(out)
    assert one["status"] == "ok" and one["note"] == 7
    assert two["status"] == "io_error" and "not found" in two["error"]
    assert three["status"] == "not_applicable" and "empty" in three["error"]
    assert "1 edits of 3 tasks, 1 rows failed" in capsys.readouterr().out


def _photo(width, height, seed):
    """Something smooth with grain, as a photo is."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((width, height))
    grain = random.normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(coarse, float) + grain).clip(0, 255).astype(np.uint8))


def test_photos_keep_their_size(editor_folder, tmp_path):
    """An editor works in buckets of its own area; what it makes has the size of its source, and can be compared."""
    sizes = [(1024, 683), (300, 200), (120, 90), (90, 160)]
    for number, size in enumerate(sizes):
        _photo(*size, number).save(tmp_path / f"{number}.jpg")
    rows = [{"id": f"p{n}", "instruction": "make it blue", "source": f"{n}.jpg"} for n in range(len(sizes))]
    (tmp_path / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert _run(str(tmp_path / "photos.jsonl"), "-e", editor_folder, "-n", "2", "-r", "pixels", "-o", str(out)) == 0
    for row in _rows(out):
        size = sizes[int(row["task"][1:])]
        assert Image.open(out / row["source"]).size == Image.open(out / row["edited"]).size == size
        assert row["status"] == "ok" and 0 <= row["overall"] <= 1
    assert {row["task"]: row["generated"] for row in _rows(out)} == {
        "p0": "80x48",
        "p1": "80x48",
        "p2": "80x48",
        "p3": "48x80",
    }


def test_tasks_of_the_world(editor_folder, tmp_path):
    out = tmp_path / "out"
    assert (
        _run("--world", "shapes", "--count", "3", "--start", "5", "-e", editor_folder, "-n", "1", "-o", str(out)) == 0
    )
    assert [row["id"] for row in _rows(out)] == [f"validation-0-{index}" for index in (5, 6, 7)]
    assert all(row["source_caption"] and row["target_caption"] and row["kind"] for row in _rows(out))


@pytest.mark.parametrize(
    "call, message",
    [
        ([], "say what to edit"),
        (["--world", "shapes", "-s", "a.png", "-i", "x"], "say what to edit"),
        (["-s", "a.png"], "belong together"),
        (["-s", "nowhere.png", "-i", "make it blue"], "not found"),
        (["--world", "shape"], "unknown world 'shape'"),
        (["--world", "shapes", "--kinds", "recolor"], "unknown kinds of instruction"),
        (["nowhere.jsonl"], "no file or folder"),
        (["--world", "shapes", "--by", "quality"], "say which with --reward"),
        (["--world", "shapes", "--device", "cuda:99"], "device 'cuda:99': torch finds no such device here"),
        (["--world", "shapes", "--device", "gpu"], "unknown device 'gpu'; there is: cpu"),
        (["--world", "shapes", "-e", "some/editor"], "is not in the local cache"),
        (["--world", "shapes", "-e", "tiny?domain=photos"], "unknown domain of an editor 'photos'"),
    ],
)
def test_wrong_calls(call, message, tmp_path, capsys):
    assert _run(*call, "-o", str(tmp_path / "out")) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error and "Traceback" not in error


def test_a_photo_is_not_turned_into_shapes(tmp_path, capsys):
    _photo(640, 480, 0).save(tmp_path / "photo.jpg")
    call = ["-s", str(tmp_path / "photo.jpg"), "-i", "make it blue", "-n", "1", "--steps", "1"]
    assert _run(*call, "-o", str(tmp_path / "out")) == 1
    (row,) = _rows(tmp_path / "out")
    assert row["status"] == "not_applicable" and row["edited"] is None
    printed = " ".join(capsys.readouterr().out.split())
    assert "black-forest-labs/FLUX.1-Kontext-dev" in printed and "'tiny?domain=any'" in printed
    insist = ["-e", "tiny?domain=any", "-o", str(tmp_path / "out")]
    assert _run(*call, *insist) == 2 and "--overwrite" in capsys.readouterr().err
    assert _run(*call, *insist, "--overwrite") == 0
    assert Image.open(tmp_path / "out" / _rows(tmp_path / "out")[0]["edited"]).size == (640, 480)


def test_a_run_that_was_stopped_says_that_it_goes_on(editor_folder, picture, tmp_path, capsys, monkeypatch):
    from editing import produce_rows

    rows = [{"id": name, "instruction": "make it blue", "source": "a.png"} for name in ("one", "two", "three")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = [str(tmp_path / "rows.jsonl"), "-e", editor_folder, "-n", "1", "-o", str(tmp_path / "out")]
    call += ["--batch-size", "1"]
    whole = produce_rows.candidates

    def stops(editor, sources, texts, names, *rest):
        if names == ["edit/0/two"]:
            raise KeyboardInterrupt
        return whole(editor, sources, texts, names, *rest)

    monkeypatch.setattr(produce_rows, "candidates", stops)
    assert _run(*call) == 130 and "run the same command again" in capsys.readouterr().err
    monkeypatch.setattr(produce_rows, "candidates", whole)
    assert _run(*call, "--seed", "1") == 2 and "seed 0, now 1" in capsys.readouterr().err
    assert _run(*call) == 0
    assert "going on after 1 of 3 tasks" in " ".join(capsys.readouterr().err.split())
    assert [row["task"] for row in _rows(tmp_path / "out")] == ["one", "two", "three"]


def test_sorted_by_a_dimension(editor_folder, picture, tmp_path, capsys):
    call = ["-e", editor_folder, "-s", str(picture), "-i", "make it blue", "-n", "3", "-r", "pixels"]
    assert _run(*call, "--by", "preservation", "-o", str(tmp_path / "out")) == 0
    rows = _rows(tmp_path / "out")
    kept = [row["scores"]["preservation"] for row in rows]
    assert kept == [row["overall"] for row in rows] == sorted(kept, reverse=True)
    assert _run(*call, "--by", "beauty", "-o", str(tmp_path / "other")) == 2
    assert "unknown dimension of pixels 'beauty'" in " ".join(capsys.readouterr().err.split())


def test_a_reward_without_an_overall_needs_a_dimension(editor_folder, picture, tmp_path, capsys, monkeypatch):
    import mmreward.reward as rewards

    class Dimensions(rewards.Reward):
        name, dims, has_overall = "dimensions", ("quality",), False

        def score(self, edits):
            return [rewards.Score(float("nan"), {"quality": 0.5}, has_overall=False) for _ in edits]

    monkeypatch.setattr(rewards, "load_reward", lambda spec: Dimensions())
    call = ["-e", editor_folder, "-s", str(picture), "-i", "make it blue", "-n", "1", "-r", "dimensions"]
    assert _run(*call, "-o", str(tmp_path / "out")) == 2 and not (tmp_path / "out").exists()
    assert "--by DIMENSION" in " ".join(capsys.readouterr().err.split())
    assert _run(*call, "-o", str(tmp_path / "out"), "--by", "quality") == 0
    assert _rows(tmp_path / "out")[0]["overall"] == 0.5
