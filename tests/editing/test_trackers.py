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


class Service:
    """As Weights & Biases documents `init`: with "never" an id must be new, with "must" it must be known, with "allow"
    and without an id there is a new run. `runs` has the steps of each.
    """

    def __init__(self):
        self.runs, self.names = {}, []

    def init(self, *, project, name, resume, id=None, dir=None):
        assert project == "mmreward" and resume in ("never", "must", "allow")
        assert {"never": id not in self.runs, "must": id in self.runs, "allow": True}[resume], f"{resume} {id}"
        self.id = id or f"made up {len(self.runs)}"
        self.runs.setdefault(self.id, [])
        self.names.append(name)

    def log(self, values, step):
        self.runs[self.id].append((step, values))

    def finish(self):
        self.id = None

    def Image(self, path):  # noqa: N802
        return "image", path


def test_a_resumed_run_goes_on_in_its_curves_at_wandb(tmp_path, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, "wandb", service)
    folder = tmp_path / "first run"
    for resumed_step in (None, 2):
        trackers = Trackers.open(["wandb", "wandb"], folder, resumed_step)
        trackers.write({**MONITOR, "step": 2 + (resumed_step or 0)})
        trackers.close()
    assert set(service.names) == {"first run"} and len(service.runs) == 1
    assert next(iter(service.runs.values())) == [(2, {"monitor/overall": 0.5}), (4, {"monitor/overall": 0.5})]
    Trackers.open(["wandb"], folder).close()  # started again in the same folder: another run
    Trackers.open(["wandb"], tmp_path / "of an older version", resumed_step=7).close()  # which kept no id
    assert len(service.runs) == 3


def test_trackio_goes_on_by_the_name_of_the_folder(tmp_path, monkeypatch):
    calls = []
    package = types.SimpleNamespace(init=lambda **options: calls.append(options), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "trackio", package)
    Trackers.open(["trackio"], tmp_path / "run").close()
    assert calls == [{"project": "mmreward", "name": "run", "resume": "allow"}]


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
