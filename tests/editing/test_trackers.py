"""Trackers: what is written can be read back, names of curves are stable, a missing package says how to get it."""

import math
import sys
import types

import pytest
from PIL import Image

from editing.trackers import Trackers, curves
from mmreward.config import ConfigError

TRAIN = {
    "kind": "train",
    "step": 1,
    "reward": 0.25,
    "kl": math.nan,
    "grad_norm": None,
    "statuses": {"ok": 7, "timeout": 1},
    "timing": {"sample": 1.5},
    "note": "text",
}
MONITOR = {"kind": "monitor", "step": 2, "overall": 0.5}


def test_each_number_is_a_curve_and_a_missing_one_is_none():
    assert curves(TRAIN) == {
        "train/reward": 0.25,
        "train/statuses/ok": 7.0,
        "train/statuses/timeout": 1.0,
        "train/timing/sample": 1.5,
    }


def test_tensorboard_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    grid = tmp_path / "grids" / "iteration-000002.png"
    grid.parent.mkdir()
    Image.new("RGB", (20, 10), "red").save(grid)
    trackers = Trackers.open(["tensorboard"], tmp_path)
    for entry in (TRAIN, MONITOR, {**TRAIN, "step": 3, "reward": 0.75}):
        trackers.write(entry)
    trackers.close()
    again = Trackers.open(["tensorboard"], tmp_path, resumed_step=2)  # step 3 was lost, and is made again
    again.write({**TRAIN, "step": 3, "reward": 0.5})
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/reward")] == [(1, 0.25), (3, 0.5)]
    assert [(e.step, e.value) for e in events.Scalars("monitor/overall")] == [(2, 0.5)]
    assert "train/kl" not in events.Tags()["scalars"]
    (image,) = events.Images("grid")
    assert (image.step, image.width, image.height) == (2, 20, 10)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_runs_are_named_after_the_folder(name, tmp_path, monkeypatch):
    told = []
    package = types.SimpleNamespace(
        init=lambda **options: told.append(("init", options)),
        log=lambda values, step: told.append((step, values)),
        finish=lambda: told.append("finish"),
        Image=lambda path: ("image", path),
    )
    monkeypatch.setitem(sys.modules, name, package)
    trackers = Trackers.open([name, name], tmp_path / "first run")
    trackers.write(MONITOR)
    trackers.close()
    (_, options), written, end = told
    assert (options["project"], options["name"], options["resume"]) == ("mmreward", "first run", "allow")
    assert written == (2, {"monitor/overall": 0.5}) and end == "finish"


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_missing_package_says_how_to_get_it(name, tmp_path, monkeypatch):
    for module in (name, "torch.utils.tensorboard") if name == "tensorboard" else (name,):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        Trackers.open([name], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'tensorboard'"):
        Trackers.open(["tensorbord"], tmp_path)


def test_no_tracker_is_no_work(tmp_path):
    trackers = Trackers.open([], tmp_path)
    trackers.write(TRAIN)
    trackers.close()
    assert not list(tmp_path.iterdir())
