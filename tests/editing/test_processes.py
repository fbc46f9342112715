"""Two processes (gloo) against one: the same losses and weights, one stop for both, no time-out while a judge works."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from editing import processes as processes_module
from editing.collect import pieces, places
from editing.processes import Processes, _buckets
from editing.recipe import Recipe, RolloutConfig
from mmreward.config import ConfigError
from mmreward.training import TrainingError, load_checkpoint, read_log

pytestmark = pytest.mark.timeout(900)  # `runs` counts too


@pytest.fixture(scope="module")
def runs(random_editor, tmp_path_factory) -> Path:
    """The folders that `two_processes.py` leaves."""
    folder = tmp_path_factory.mktemp("runs")
    random_editor.save(folder / "editor")
    script = Path(__file__).with_name("two_processes.py")
    root = Path(processes_module.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder / "editor"), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
    try:
        _, errors = process.communicate(timeout=840)
    except BaseException:  # its children too: they would keep the pipes open and go on working
        os.killpg(process.pid, signal.SIGKILL)
        print(process.communicate()[1])
        raise
    assert process.returncode == 0, errors
    return folder


def outcomes(runs: Path, name: str, rank: int) -> list[dict]:
    return read_log(runs / name / f"outcome-{rank}.jsonl")


def outcome(runs: Path, name: str, rank: int) -> dict:
    (found,) = outcomes(runs, name, rank)
    return found


TOLERANCE = 1e-5
"""Of losses and weights: processes have their networks in memory of their own, and add up in another order."""
SQUARES = 1e-4
"""Relative, of divergences: they are squares of the small differences of two predictions."""


def assert_alike(runs: Path, first: str, second: str, random: bool = False) -> None:
    """The same log and the same checkpoint; `random`: the same random state too (one process draws for more groups than
    two).
    """
    a, b = (read_log(runs / name / "log.jsonl") for name in (first, second))
    assert [line["step"] for line in a] == [line["step"] for line in b] and len(a) >= 4
    for ours, theirs in zip(a, b, strict=True):
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            if name not in ("seconds", "timing", "kind"):
                relative = SQUARES if name.startswith("kl") else TOLERANCE
                assert theirs[name] == pytest.approx(value, rel=relative, abs=TOLERANCE), name
    a, b = (load_checkpoint(runs / name) for name in (first, second))
    assert a.step == b.step and set(a.tensors) == set(b.tensors)
    for table in set(a.tensors) - (set() if random else {"random"}):
        tensors = a.tensors[table]
        for name, tensor in tensors.items():
            assert torch.allclose(tensor.double(), b.tensors[table][name].double(), rtol=0, atol=TOLERANCE), (
                table,
                name,
            )


def test_losses_and_weights_are_those_of_one_process_and_a_slow_judge_is_waited_for(runs):
    assert outcome(runs, "two", 0) == outcome(runs, "two", 1) == {}
    assert_alike(runs, "one", "two")
    train = [line for line in read_log(runs / "two" / "log.jsonl") if line["kind"] == "train"]
    assert train[0]["statuses"] == {"ok": 12}
    assert train[0]["timing"]["reward"] > 8  # the time-out: the other one's judge is slower


def test_both_stop_together_and_go_on_as_if_they_had_not(runs):
    for rank in (0, 1):
        stopped, resumed = outcomes(runs, "stopped", rank)
        assert stopped["error"].startswith("Interrupted: stopped at step 2") and resumed == {}
    assert_alike(runs, "two", "stopped", random=True)


def test_what_fails_in_one_process_is_said_in_the_other(runs):
    assert outcome(runs, "broken", 1)["error"] == "ZeroDivisionError: the judge is broken"
    said = outcome(runs, "broken", 0)["error"]
    assert said.startswith("TrainingError: another process stopped: process 1 of 2: ZeroDivisionError: the judge is")


@pytest.mark.parametrize("name", ["two-lora", "sharded-lora"])
def test_a_network_in_parts_learns_what_a_whole_one_learns(runs, name):
    from editing.editors import load_editor

    assert_alike(runs, "one-lora", name)
    after = [outcome(runs, "one-lora", 0)["after"], outcome(runs, name, 0)["after"], outcome(runs, name, 1)["after"]]
    assert after[1:] == pytest.approx([after[0]] * 2, abs=2e-3)  # pixels are rounded
    ours, theirs = (load_editor(str(runs / run / "model")).module.state_dict() for run in ("one-lora", name))
    assert all(torch.allclose(value, theirs[key], atol=1e-5) for key, value in ours.items())
    loras = (runs / run / "lora" / "pytorch_lora_weights.safetensors" for run in ("one-lora", name))
    ours, theirs = (load_file(file) for file in loras)
    assert ours and set(ours) == set(theirs)
    assert all(torch.allclose(value, theirs[key], atol=1e-5) for key, value in ours.items())


def test_groups_that_cannot_be_dealt_are_refused(runs, monkeypatch):
    for rank in (0, 1):
        said = outcome(runs, "uneven", rank)["error"]
        assert said.startswith("ConfigError: rollout.groups: 3 for 2 processes; set a multiple of 2")
    recipe = Recipe.model_validate({"roles": {"reward": "a", "monitor": "b"}, "loop": {"steps": 1}})
    eight = Processes()
    eight.size = 32
    with pytest.raises(ConfigError, match="rollout.groups: 16 for 32 processes; set at least 32"):
        places(recipe, eight)


def test_shares_are_neighbours_and_cover_everything():
    several = Processes()
    several.size = 3
    assert several.shares(7) == [range(0, 2), range(2, 4), range(4, 7)]
    assert several.shares(2) == [range(0, 0), range(0, 1), range(1, 2)]


def test_one_process_waits_for_nobody():
    alone = Processes()
    assert alone.gather({"a": 1.5}) == [{"a": 1.5}] and alone.main
    assert alone.mean({"a": 1.5, "b": float("nan")}, 3) == {"a": 1.5}


def test_a_silent_process_is_named(monkeypatch):
    """A second process that never beats, in the store of this one."""
    monkeypatch.setattr(processes_module, "_BEAT", 0.01)
    waiting = Processes(patience=0.05)
    waiting.size, waiting._heard, waiting._listened = 2, {1: (0, processes_module.time.monotonic())}, 0.0
    waiting._store = torch.distributed.HashStore()
    with pytest.raises(TrainingError, match="process 1 of 2 has given no sign of life"):
        waiting.gather(1)


def test_pieces_are_whole_groups_and_whole_batches():
    config = RolloutConfig(members=4, batch=6)
    assert pieces(48, config) == [range(0, 12), range(12, 24), range(24, 36), range(36, 48)]
    assert pieces(100, config) == [range(0, 36), range(36, 72), range(72, 100)]
    assert pieces(12, config) == [range(0, 12)]


def test_gradients_are_summed_in_buckets_of_one_type(monkeypatch):
    monkeypatch.setattr(processes_module, "_BUCKET", 6)
    gradients = [torch.zeros(4), torch.zeros(2), torch.zeros(1), torch.zeros(9), torch.zeros(1, dtype=torch.float64)]
    assert [[len(g) for g in bucket] for bucket in _buckets(gradients)] == [[4, 2], [1], [9], [1]]
