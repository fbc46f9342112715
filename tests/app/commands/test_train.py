"""`mmreward train`: recipes are found, changed, checked; errors name the key; Ctrl-C says how to go on."""

import os
import signal
import sys
import types

import pytest
import yaml

from app.cli import main
from app.commands import train as command
from mmreward.training import Interrupted, TrainingError


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """A task that keeps what it is called with and then does what `calls.does` says."""
    calls = types.SimpleNamespace(seen=[], does=lambda: None)

    def run(recipe, folder, resume):
        calls.seen.append((recipe, folder, resume))
        calls.does()

    monkeypatch.setitem(sys.modules, "fake_task", types.SimpleNamespace(run=run))
    monkeypatch.setitem(command.TASKS, "fake", "fake_task:run")
    path = tmp_path / "mine.yaml"
    path.write_text("task: fake\nsize: 3\nloop: {steps: 5, lr: 1.0e-3}\n")
    calls.path, calls.out = str(path), tmp_path / "out"
    return calls


def test_changes_reach_the_task_and_are_kept(fake):
    options = ["--set", "loop.lr=2e-4", "--set", "new.list=[1, 2]", "--minutes", "1.5"]
    assert call(fake.path, "--out", str(fake.out), *options) == 0
    ((recipe, folder, resume),) = fake.seen
    assert recipe == {"size": 3, "loop": {"steps": 5, "lr": 2e-4, "minutes": 1.5}, "new": {"list": [1, 2]}}
    assert (folder, resume) == (fake.out, False)
    assert yaml.safe_load((fake.out / "recipe.yaml").read_text()) == {"task": "fake", **recipe}


def test_interrupt_prints_the_resume_command(fake, capsys):
    def interrupt():
        raise Interrupted(fake.out, 7)

    fake.does = interrupt
    assert call(fake.path, "--out", str(fake.out), "--set", "size=4", "--minutes", "2") == 130
    said = " ".join(capsys.readouterr().err.split())
    assert f"mmreward train {fake.path} --out {fake.out} --minutes 2 --set size=4 --resume" in said


def test_training_that_fails_is_exit_code_1(fake, capsys):
    def fail():
        raise TrainingError("the loss is not finite")

    fake.does = fail
    assert call(fake.path, "--out", str(fake.out)) == 1
    assert "the loss is not finite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["grpo-tyni"], "Did you mean 'grpo-tiny'?"),
        (["missing/recipe.yaml"], "not found; bundled recipes:"),
        (["grpo-tiny", "--set", "loop"], "--set takes key=value"),
        (["grpo-tiny", "--set", "editor.x=1"], "'editor' in grpo-tiny.yaml is a value"),
        (["grpo-tiny", "--set", "task=gpro"], "Did you mean 'grpo'?"),
        (["grpo-tiny", "--set", "rollout.grups=3"], "unknown key 'rollout.grups'; did you mean 'groups'?"),
        (["grpo-tiny", "--set", "roles.monitor=clip:tiny"], "is both reward and monitor"),
        (["grpo-tiny", "--resume"], "there is no checkpoint in"),
    ],
)
def test_wrong_calls_are_exit_code_2_and_say_why(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_broken_recipe_file(tmp_path, capsys):
    path = tmp_path / "broken.yaml"
    path.write_text("task: [grpo\n")
    assert call(str(path)) == 2
    assert "broken.yaml" in capsys.readouterr().err


def test_help_shows_an_example(capsys):
    assert call("--help") == 0
    assert "mmreward train grpo-tiny --minutes 15" in capsys.readouterr().out


@pytest.mark.parametrize("name", command.recipe_names())
def test_every_bundled_recipe_has_a_known_task(name):
    assert command.read_recipe(command.find_recipe(name))["task"] in command.TASKS


@pytest.mark.parametrize("name", [name for name in command.recipe_names() if name.startswith("grpo")])
def test_bundled_grpo_recipes_are_valid(name):
    from editing.recipe import Recipe
    from editing.roles import check_roles

    settings = command.read_recipe(command.find_recipe(name))
    settings.pop("task")
    check_roles(Recipe.model_validate(settings).roles)


def test_no_permission_to_write(fake, tmp_path, capsys):
    locked = tmp_path / "file"
    locked.write_text("")
    assert call(fake.path, "--out", str(locked / "inside")) == 2
    assert "file" in capsys.readouterr().err


def test_ctrl_c_in_a_real_run(tmp_path, monkeypatch, capsys):
    """A loop in the middle of training: a checkpoint is written and the printed command goes on from it."""
    import torch

    from mmreward.training import LoopConfig, Loss, fit, load_checkpoint

    def run(recipe, folder, resume):
        module = torch.nn.Linear(2, 1)

        def batch(step):
            if step == 3 and not resume:
                os.kill(os.getpid(), signal.SIGINT)
            return torch.ones(1, 2)

        fit(module, batch, lambda m, b: Loss(m(b).sum()), LoopConfig(**recipe["loop"]), folder, resume=resume)

    monkeypatch.setitem(sys.modules, "fake_task", types.SimpleNamespace(run=run))
    monkeypatch.setitem(command.TASKS, "fake", "fake_task:run")
    path = tmp_path / "mine.yaml"
    path.write_text("task: fake\nloop: {steps: 30, lr: 1.0e-3, autocast: 'no'}\n")
    assert call(str(path), "--out", str(tmp_path / "run")) == 130
    said = capsys.readouterr().err.split("Go on with:")[1].split()
    assert load_checkpoint(tmp_path / "run").step < 30
    assert call(*said[2:]) == 0
    assert load_checkpoint(tmp_path / "run").step == 30
