"""The loop: a resumed run equals one that was never stopped, a kill or a truncation never passes unseen, errors name
the key.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmreward.training import (
    CheckpointError,
    ConfigError,
    Interrupted,
    LoopConfig,
    Loss,
    TrainingError,
    fit,
    load_checkpoint,
    read_config,
    read_log,
    save_checkpoint,
)
from mmreward.training import checkpoint as checkpoint_module
from mmreward.training import loop as loop_module
from mmreward.training.checkpoint import latest_checkpoint
from mmreward.training.optim import Ema, default_groups


def small_module() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 1))


def batch_at(step: int):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    return {"x": x, "y": x.sum(1, keepdim=True)}


def loss(module, batch):
    error = (module(batch["x"]) + 0.01 * torch.randn(8, 1) - batch["y"]).float().square().mean()
    return Loss(error, {"mse": float(error.detach())})


def config(**changes) -> LoopConfig:
    settings = {"steps": 30, "lr": 1e-2, "optimizer": "muon", "warmup": 5, "ema": 0.99, "log_every": 7}
    return LoopConfig(**{**settings, **changes})


class Stop(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_equals_never_stopped(tmp_path, optimizer):
    whole, parted = small_module(), small_module()
    settings = config(optimizer=optimizer)
    first = fit(whole, batch_at, loss, settings, tmp_path / "whole")

    def stopping(step):
        if step == 14:
            os.kill(os.getpid(), signal.SIGINT)
        return batch_at(step)

    with pytest.raises(Interrupted, match="--resume"):
        fit(parted, stopping, loss, settings, tmp_path / "parted")
    torch.manual_seed(99)
    parted = small_module()
    second = fit(parted, batch_at, loss, settings, tmp_path / "parted")
    assert first.steps == second.steps == 30
    a, b = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parted")
    for table in a.tensors:
        for name, value in a.tensors[table].items():
            assert torch.equal(value, b.tensors[table][name]), (table, name)
    assert all(torch.equal(first.ema_state[name], second.ema_state[name]) for name in first.ema_state)
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(tmp_path / run / "log.jsonl")]
        for run in ("whole", "parted")
    ]
    assert lines[0] == lines[1] and [line["step"] for line in lines[0]] == [7, 14, 21, 28, 30]


def test_trains_and_finished_run_returns_at_once(tmp_path):
    module = small_module()
    fit(module, batch_at, loss, config(steps=150, autocast="no"), tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    assert log[-1]["mse"] < 0.5 * log[0]["mse"]
    again = fit(small_module(), batch_at, loss, config(steps=150), tmp_path)
    assert again.steps == 150 and again.ema_state is not None
    with pytest.raises(ConfigError, match="--resume"):
        fit(small_module(), batch_at, loss, config(), tmp_path, resume=False)


def test_length_by_minutes(tmp_path, monkeypatch):
    clock = count(100.0, 0.125)  # read once at the start and once a step
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    result = fit(small_module(), batch_at, loss, config(steps=None, minutes=0.01), tmp_path)
    assert result.steps == 5 and result.seconds == 0.625  # the first that is not less than 0.6


def test_runs_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=lambda: fit(small_module(), batch_at, loss, config(steps=3), tmp_path))
    thread.start()
    thread.join()
    assert load_checkpoint(tmp_path).step == 3


def test_kill_between_writes_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    table = {"weights": {"w": torch.arange(3.0)}, "more": {"v": torch.ones(2)}}
    save_checkpoint(tmp_path, 1, table, {"note": 1})
    import safetensors.torch

    real, calls = safetensors.torch.save_file, []
    for at in range(2):

        def dying(tensors, path, at=at):
            calls.append(path)
            if len(calls) - 1 == at:
                raise Stop
            real(tensors, path)

        calls.clear()
        monkeypatch.setattr(safetensors.torch, "save_file", dying)
        with pytest.raises(Stop):
            save_checkpoint(tmp_path, 2, table, {"note": 2})
        assert load_checkpoint(tmp_path).state == {"note": 1}
    monkeypatch.setattr(safetensors.torch, "save_file", real)
    monkeypatch.setattr(checkpoint_module, "_steps", lambda folder: [])  # killed before the old one was removed
    save_checkpoint(tmp_path, 2, table, {"note": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path).state == {"note": 2}


def test_kill_9_while_saving_over_and_over(tmp_path):
    program = textwrap.dedent("""
        import sys, torch, itertools
        from pathlib import Path
        from mmreward.training import save_checkpoint
        for step in itertools.count():
            table = {"weights": {"w": torch.full((1000,), float(step))}}
            save_checkpoint(Path(sys.argv[1]), step, table, {"value": step})
    """)
    root = Path(checkpoint_module.__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=root)
    try:
        deadline = time.monotonic() + 240
        while latest_checkpoint(tmp_path) is None and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        assert latest_checkpoint(tmp_path) is not None and child.poll() is None
    finally:
        child.kill()
        child.wait()
    found = load_checkpoint(tmp_path)
    assert found.state["value"] == found.step
    assert torch.equal(found.tensors["weights"]["w"], torch.full((1000,), float(found.step)))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "state"])
def test_damaged_checkpoint_is_named(tmp_path, damage):
    path = save_checkpoint(tmp_path, 5, {"weights": {"w": torch.arange(30.0)}}, {})
    file = path / "weights.safetensors"
    data = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(data[:-7])
    elif damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "remove":
        file.unlink()
    else:
        file = path / "state.json"
        file.write_text(file.read_text()[:20])
    with pytest.raises(CheckpointError, match=file.name):
        load_checkpoint(tmp_path)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    fit(small_module(), batch_at, loss, config(steps=2), tmp_path)
    other = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    with pytest.raises(CheckpointError, match="another model"):
        fit(other, batch_at, loss, config(steps=2), tmp_path)


def test_non_finite_steps_are_skipped_and_counted(tmp_path):
    def sometimes(module, batch):
        result = loss(module, batch)
        return Loss(result.total * (float("nan") if batch["bad"] else 1.0))

    module = small_module()
    few = config(steps=20, log_every=20)
    fit(module, lambda step: {**batch_at(step), "bad": step % 5 == 2}, sometimes, few, tmp_path / "some")
    assert read_log(tmp_path / "some" / "log.jsonl")[-1]["skipped"] == 4
    assert all(torch.isfinite(p).all() for p in module.parameters())
    with pytest.raises(TrainingError, match="non-finite"):
        fit(small_module(), lambda step: {**batch_at(step), "bad": True}, sometimes, config(steps=50), tmp_path / "all")


def test_ema_and_groups():
    module = small_module()
    ema = Ema(module, 0.5)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    before = {name: value.clone() for name, value in ema.values.items()}
    ema.update(module, 1000)
    assert all(torch.allclose(ema.values[name], before[name] + 0.5) for name in before)
    muon, adamw = default_groups(module, config())
    assert [tuple(p.shape) for p in muon.parameters] == [(16, 4), (16, 16)] and len(adamw.parameters) == 4


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(ConfigError, match="unknown key 'stepz'; did you mean 'steps'"):
        read_config(LoopConfig, {"stepz": 3, "lr": 1e-3})
    with pytest.raises(ConfigError, match="missing key 'lr'"):
        read_config(LoopConfig, {"steps": 3})
    with pytest.raises(ConfigError, match="steps or minutes"):
        read_config(LoopConfig, {"lr": 1e-3}, "recipe.yaml")
    with pytest.raises(ConfigError, match="lr"):
        read_config(LoopConfig, {"steps": 3, "lr": -1})


def test_log_drops_what_came_after_the_checkpoint(tmp_path):
    from mmreward.training import JsonlLog

    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4')
    log = JsonlLog(path, 2)
    log.write({"step": 3, "loss": float("nan")})
    log.close()
    assert read_log(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": None}]
