"""`mmreward train`: recipes are found, changed, checked; errors name the key; Ctrl-C says how to go on."""

import json
import os
import signal
import sys
import types

import pytest
import yaml
from PIL import Image

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


def test_lora_only_is_a_setting_of_the_policy(fake, capsys):
    def interrupt():
        raise Interrupted(fake.out, 7)

    fake.does = interrupt
    assert call(fake.path, "--out", str(fake.out), "--lora-only") == 130
    assert fake.seen[0][0]["policy"] == {"export": "lora"}
    capsys.readouterr()
    assert call("grpo-tiny", "--lora-only", "--dry-run", "--set", "policy.weights=full") == 2
    assert "weights: full trains none; set weights: lora" in " ".join(capsys.readouterr().err.split())


def test_a_run_that_wrote_a_lora_says_how_to_use_it(fake, capsys):
    fake.does = lambda: (fake.out / "lora").mkdir()
    assert call(fake.path, "--out", str(fake.out), "--set", "editor=a/b?dtype=bfloat16") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"--editor 'a/b?dtype=bfloat16&lora={fake.out / 'lora'}'" in said


def test_a_task_for_one_process_refuses_a_launcher(fake, monkeypatch, capsys):
    """Two processes would train the same thing in one folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(fake.path, "--out", str(fake.out)) == 2
    assert "'fake' trains in one process, and a launcher started 2" in " ".join(capsys.readouterr().err.split())
    assert not fake.out.exists() and fake.seen == []
    assert call("tiny-vae", "--dry-run", "--out", str(fake.out)) == 2


def test_interrupt_prints_the_resume_command(fake, capsys):
    def interrupt():
        raise Interrupted(fake.out, 7)

    fake.does = interrupt
    assert call(fake.path, "--out", str(fake.out), "--set", "size=4", "--minutes", "2") == 130
    said = " ".join(capsys.readouterr().err.split())
    assert f"mmreward train --resume --out {fake.out}" in said


def checkpointed(fake):
    """A run that was stopped after its second step."""
    from mmreward.training import save_checkpoint

    def interrupt():
        save_checkpoint(fake.out, 2, {}, {})
        raise Interrupted(fake.out, 2)

    fake.does = interrupt
    assert call(fake.path, "--out", str(fake.out), "--set", "size=4", "--minutes", "2") == 130
    fake.does = lambda: None


def test_resume_needs_no_more_than_the_folder(fake, capsys):
    checkpointed(fake)
    said = capsys.readouterr().err.split("Go on with:")[1].split()
    assert said == ["mmreward", "train", "--resume", "--out", str(fake.out)]
    before = (fake.out / "recipe.yaml").read_bytes()
    assert call(*said[2:]) == 0
    (_, first), (_, second) = [(resume, recipe) for recipe, _, resume in fake.seen]
    assert first == second and [resume for *_, resume in fake.seen] == [False, True]
    assert call("--resume", "--out", str(fake.out), "--minutes", "9") == 0
    assert fake.seen[-1][0]["loop"]["minutes"] == 9
    assert (fake.out / "recipe.yaml").read_bytes() == before  # that of the start is kept


def test_a_resumed_run_that_is_stopped_keeps_what_was_changed(fake, capsys):
    checkpointed(fake)

    def interrupt():
        raise Interrupted(fake.out, 3)

    fake.does = interrupt
    capsys.readouterr()
    assert call("--resume", "--out", str(fake.out), "--minutes", "9") == 130
    assert f"mmreward train --resume --out {fake.out} --minutes 9" in " ".join(capsys.readouterr().err.split())


def test_resume_without_a_recipe_says_what_is_missing(fake, tmp_path, capsys):
    assert call() == 2
    assert "name a recipe, or go on with a run: mmreward train --resume" in " ".join(capsys.readouterr().err.split())
    assert call("--resume") == 2
    assert call("--resume", "--out", str(tmp_path / "none")) == 2
    assert "has no recipe.yaml" in " ".join(capsys.readouterr().err.split())


def test_other_training_is_no_resume_of_this_one(tmp_path, monkeypatch, capsys):
    from mmreward.training import save_checkpoint

    out = tmp_path / "run"
    save_checkpoint(out, 2, {}, {})
    settings = command.read_recipe(command.find_recipe("tiny-vae"))
    (out / "recipe.yaml").write_text(yaml.safe_dump(settings))
    seen = []
    monkeypatch.setitem(sys.modules, "fake_task", types.SimpleNamespace(run=lambda *given: seen.append(given)))
    monkeypatch.setitem(command.TASKS, "vae", "fake_task:run")
    assert call("tiny-vae", "--resume", "--out", str(out), "--set", "loop.lr=0.5") == 2
    assert "loop.lr was" in " ".join(capsys.readouterr().err.split())
    assert call("tiny-editor", "--resume", "--out", str(out)) == 2
    assert "task was 'vae' and is 'editor'" in " ".join(capsys.readouterr().err.split())
    assert not seen
    assert call("tiny-vae", "--resume", "--out", str(out), "--set", "loop.steps=3") == 0
    assert len(seen) == 1


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
        (["grpo-tiny", "--set", "lr=3"], "unknown key 'lr'; did you mean 'loop.lr'?"),
        (["tiny-vae", "--set", "lr=3"], "unknown key 'lr'; did you mean 'loop.lr'?"),
        (["grpo-tiny", "--set", "roles.monitor=clip:tiny"], "is both reward and monitor"),
        (["grpo-tiny", "--resume"], "there is no checkpoint in"),
    ],
)
def test_wrong_calls_are_exit_code_2_and_say_why(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def triplets(tmp_path):
    """Rows of which one has an image that is not there."""
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "there.png")
    rows = [{"instruction": "make it red", "source": name} for name in ("there.png", "gone.png")]
    path = tmp_path / "triplets.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


CHEAP = ("--set", "roles.reward=pixels", "--set", "roles.monitor=target", "--set", "loop.compile=false")
IMPOSSIBLE = {
    "rollout.members=1": "rollout.members: Input should be greater than or equal to 2 (got 1)",
    "rollout.groups=0": "rollout.groups: Input should be greater than or equal to 1 (got 0)",
    "rollout.window=8": "window 8 must be smaller than steps 8",
    "rollout.window=0": "start: shared needs noise in the steps",
    "rollout.eta=-1": "rollout.eta: Input should be greater than 0",
    "loop.updates=999": "loop.updates 999 is more than the 256 samples of an iteration",
    "loop.micro_batch=0": "loop.micro_batch: Input should be greater than or equal to 1",
    "loop.ema=0.9": "the average of a policy's weights is policy.ema; leave loop.ema out",
    "algorithm.name=gpro": "algorithm.name must be one of grpo",
    "algorithm.clp=1": "algorithm: unknown key 'clp'; did you mean 'clip'?",
    "advantage.normalise=parts": "advantage.normalise: parts: the reward 'pixels' does not say",
    "data.file=lost.jsonl": "lost.jsonl",
    "roles.reward=vlm:tinny": "tinny",
    "editor=tinny": "unknown editor 'tinny'; did you mean 'tiny'",
    "trackers=[tensorbord]": "trackers",
}


@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_a_dry_run_names_what_cannot_be(change, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("grpo-tiny", "--dry-run", *CHEAP, "--set", change) == 2
    told = capsys.readouterr()
    assert IMPOSSIBLE[change] in " ".join((told.out + told.err).split())
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_which_rows_would_be_left_out(triplets, tmp_path, capsys):
    assert call("grpo-tiny", *CHEAP, "--set", f"data.file={triplets}", "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 1 rows that cannot be used; the first is row 1" in said and "gone.png" in said


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_file_without_a_usable_row_is_named_before_anything_starts(options, triplets, tmp_path, capsys):
    (tmp_path / "there.png").unlink()
    out = str(tmp_path / "run")
    assert call("grpo-tiny", *CHEAP, "--set", f"data.file={triplets}", "--out", out, *options) == 2
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    assert "none of its 2 rows can be used" in said and "there.png" in said and "triplets.jsonl" in said


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_an_algorithm_that_needs_what_the_reward_cannot_give(options, tmp_path, capsys):
    assert call("pref-grpo-tiny", *CHEAP, "--set", "algorithm.by=judge", "--out", str(tmp_path / "run"), *options) == 2
    told = capsys.readouterr()
    said = " ".join((told.out + told.err).split())
    assert "learns from comparisons, and 'pixels' cannot compare two edits" in said and "way=pairwise" in said


def test_a_dry_run_starts_nothing_and_fits_a_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("grpo-tiny", *CHEAP, "--dry-run") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and not list(tmp_path.iterdir())
    words = " ".join(said.split())
    for part in ("FluxKontextPipeline", "32 tasks x 8 edits = 256 edits", "an estimate", "measured", "it could start"):
        assert part in words


@pytest.mark.parametrize("name", command.recipe_names())
def test_every_task_has_settings_to_look_at(name):
    assert command.read_recipe(command.find_recipe(name))["task"] in command.SETTINGS


def test_other_tasks_are_read_and_shown(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("tiny-vae", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "8,000 steps" in said and "batch" in said and max(map(len, said.splitlines())) <= 80
    assert call("tiny-vae", "--dry-run", "--set", "bach=3") == 2
    assert "unknown key 'bach'; did you mean 'batch'?" in capsys.readouterr().err


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


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("error", [ValueError("wrong"), TrainingError("wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("files", [None, {"notes.txt": "mine"}, {"recipe.yaml": "task: mine\n", "log.jsonl": ""}])
def test_a_run_that_never_began_leaves_the_folder_as_it_was(error, files, fake, tmp_path):
    """Also those above it that were made, and with the monitor's first line in the log."""
    out = tmp_path / "there" if files else fake.out / "deep" / "down"
    for name, text in (files or {}).items():
        out.mkdir(exist_ok=True)
        (out / name).write_text(text)
    before = contents(tmp_path)

    def fail():
        if not (out / "log.jsonl").exists():
            (out / "log.jsonl").write_text('{"kind": "monitor", "step": 0}\n')
        raise error

    fake.does = fail
    assert call(fake.path, "--out", str(out)) in (1, 2, 130)
    assert contents(tmp_path) == before


def test_what_was_trained_stays_when_it_fails(fake):
    def fail():
        (fake.out / "log.jsonl").write_text('{"step": 1}\n')
        raise TrainingError("wrong")

    fake.does = fail
    assert call(fake.path, "--out", str(fake.out)) == 1
    assert {path.name for path in fake.out.iterdir()} == {"recipe.yaml", "log.jsonl"}


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
