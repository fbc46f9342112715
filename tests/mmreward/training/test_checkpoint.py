"""Saving that is cut short, by kill -9 between any two operations on files or by a full disk, loses nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmreward.training import checkpoint as checkpoint_module
from mmreward.training import load_checkpoint, save_atomic
from mmreward.training.checkpoint import CheckpointError, save_checkpoint


def run(what: str, folder: Path):
    root = Path(checkpoint_module.__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("saving.py")), what, str(folder)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def whole(folder: Path) -> int:
    """The step of the checkpoint there, all of whose files belong together."""
    found = load_checkpoint(folder)
    assert found.state["value"] == found.step
    for tensors in found.tensors.values():
        assert all((tensor == found.step).all() for tensor in tensors.values())
    return found.step


def test_kill_9_between_any_two_operations(tmp_path):
    operations = run("killed", tmp_path)
    steps = [whole(tmp_path / str(operation)) for operation in range(operations + 1)]
    assert operations > 10 and set(steps) == {1, 2} and steps == sorted(steps)
    for operation, step in enumerate(steps):  # what was left lying about is in nobody's way
        tensors = {"weights": {"w": torch.full((3,), 3.0)}}
        save_checkpoint(tmp_path / str(operation), 3, tensors, {"value": 3})
        assert step < 3 == whole(tmp_path / str(operation))
        assert [path.name for path in (tmp_path / str(operation)).iterdir()] == ["checkpoint-00000003"]


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
    said = run("full", tmp_path)
    assert "checkpoint-00000002 could not be written" in said and "that of step 1 is kept" in said
    assert "--resume" in said and whole(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="there is no earlier one"):
        save_checkpoint(tmp_path / "file", 1, {"weights": {"w": torch.ones(2)}}, {})


def test_a_replaced_folder_survives_a_kill_between_its_renames(tmp_path):
    save_atomic(tmp_path / "model", lambda folder: (folder / "a").write_text("first"))
    (tmp_path / "model").rename(tmp_path / ".model.old")  # as a kill at that moment leaves it

    def fail(folder):
        raise OSError("full")

    with pytest.raises(OSError):
        save_atomic(tmp_path / "model", fail)
    assert (tmp_path / "model" / "a").read_text() == "first"
