"""What goes wrong in a run: rows that cannot be read, images that are not finite, errors in the middle, other recipes
at a resume. Nothing of it is scored, and nothing that was trained is lost.
"""

import copy
import json
import math

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageStat

from editing import state as states
from editing.data import TaskConfig, load_tasks
from editing.recipe import Recipe
from editing.roles import Roles
from editing.trainer import Trainer
from mmreward.config import ConfigError
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.training import TrainingError, load_checkpoint, read_log
from mmreward.training.checkpoint import latest_checkpoint

ROWS = 5


class Redness(Reward):
    """The mean of the red channel; `before(calls)` is called before each scoring. `noise` is added to the green one at
    the second.
    """

    name, dims = "redness", ("red", "green")

    def __init__(self, before=lambda calls: None, noise=0.0):
        self.before, self.noise, self.calls, self.seen = before, noise, 0, []

    def score(self, edits):
        self.calls += 1
        self.before(self.calls)
        self.seen.append(len(edits))
        means = [[value / 255 for value in ImageStat.Stat(edit.image("edited")).mean] for edit in edits]
        noise = self.noise if self.calls == 2 else 0.0
        return [Score(red, {"red": red, "green": min(1.0, green + noise)}) for red, green, _ in means]


@pytest.fixture
def rows(tmp_path):
    """A file of five plain sources."""
    for number in range(ROWS):
        Image.new("RGB", (64, 64), (40 * number, 90, 120)).save(tmp_path / f"{number}.png")
    lines = [{"id": f"r{n}", "instruction": "make it red", "source": f"{n}.png"} for n in range(ROWS)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def make(random_editor, tmp_path, rows):
    def build(name="run", reward=None, monitor=None, **changes):
        settings = {
            "roles": {"reward": "pixels", "monitor": "oracle"},
            "data": {"file": str(rows)},
            "rollout": {"groups": 2, "members": 4, "steps": 3, "window": 2},
            "policy": {"weights": "full", "ema": 0.5},
            "algorithm": {"name": "grpo", "clip": 1e-2},
            "loop": {"steps": 4, "lr": 1e-3, "warmup": 0, "autocast": "no", "micro_batch": 8, "updates": 2},
            "advantage": {"floor": 1e-5},
            "evaluation": {"every": 3, "monitor": {"file": str(rows)}, "monitor_tasks": 2},
        }
        for path, value in changes.items():
            group, _, key = path.partition("__")
            settings[group] = {**settings.get(group, {}), key: value} if key else value
        recipe = Recipe.model_validate(settings)
        editor = copy.deepcopy(random_editor)
        editor.module.requires_grad_(True)
        roles = Roles(reward or Redness(), monitor or Redness(), None)
        return Trainer(recipe, editor, roles, load_tasks(recipe.data), tmp_path / name, Accelerator(cpu=True))

    return build


def break_row(rows, number):
    """A photo whose transfer was cut off: the header says nothing of it."""
    file = rows.parent / f"{number}.png"
    file.write_bytes(file.read_bytes()[:-60])


def lines(folder, *kinds):
    kept = [line for line in read_log(folder / "log.jsonl") if line["kind"] in kinds]
    return [{key: value for key, value in line.items() if key not in ("seconds", "timing")} for line in kept]


def assert_same_run(first, second):
    """The same weights, optimiser, random state and log."""
    a, b = load_checkpoint(first), load_checkpoint(second)
    assert a.step == b.step and set(a.tensors) == set(b.tensors)
    for table, values in a.tensors.items():
        assert all(torch.equal(value, b.tensors[table][name]) for name, value in values.items()), table
    assert lines(first, "train", "monitor") == lines(second, "train", "monitor")


# ---- data


def test_a_broken_image_ends_nothing_and_is_counted(make, rows, tmp_path, capsys):
    break_row(rows, 3)
    make("run", loop__steps=6, loop__log_every=4).fit(resume=False)
    assert latest_checkpoint(tmp_path / "run") == 6
    (told,) = lines(tmp_path / "run", "data")  # once, when it was met
    assert list(told["unreadable"]) == ["r3"] and "truncated" in told["unreadable"]["r3"]
    assert "row r3 is left out" in capsys.readouterr().err
    assert [line["statuses"] for line in lines(tmp_path / "run", "train")] == [{"ok": 8}]


def test_a_run_over_a_broken_image_resumes_exactly(make, rows, tmp_path):
    break_row(rows, 3)
    make("whole", loop__steps=6).fit(resume=False)
    make("parted", loop__steps=4).fit(resume=False)
    make("parted", loop__steps=6).fit(resume=True)
    whole, parted = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parted")
    for name, value in whole.tensors["policy"].items():
        assert torch.equal(value, parted.tensors["policy"][name])
    assert lines(tmp_path / "whole", "train", "data") == lines(tmp_path / "parted", "train", "data")


def test_rows_that_lack_something_are_said_at_the_start(make, rows, tmp_path, capsys):
    (rows.parent / "1.png").unlink()
    make().fit(resume=False)
    (begun,) = lines(tmp_path / "run", "start")
    assert list(begun["unreadable"]) == ["r1"] and any("row r1 is left out" in text for text in begun["warnings"])
    assert "row r1" in capsys.readouterr().err
    assert any("the alarm cannot ring: evaluation.monitor_tasks is 2" in text for text in begun["warnings"])


# ---- images that are not finite


def not_finite(trainer, rows_of):
    """The decoder gives NaN for some rows of each batch."""
    decode = trainer.editor.decode

    def broken(latents, condition):
        images = decode(latents, condition).clone()
        images[rows_of(len(images))] = math.nan
        return images

    trainer.editor.decode = broken


def test_a_sample_that_is_not_finite_is_a_failed_one(make):
    trainer = make(loop__max_failures=0.5, loop__micro_batch=4)
    not_finite(trainer, lambda count: [1])
    batch, entry = trainer.step()
    assert entry["statuses"] == {"ok": 7, "error": 1} and trainer.roles.reward.seen[0] == 7
    assert "not finite" in batch.edits[1].error and batch.made == [0, 2, 3, 4, 5, 6, 7]
    assert trainer.policies.finite() and entry["skipped"] == 0 and math.isfinite(entry["loss"])


def test_latents_that_are_not_finite_touch_no_other_sample(make):
    """As one network pass in half precision may leave them."""
    trainer = make(loop__max_failures=0.5)
    predict = trainer.editor.predict

    def overflowing(x, t, condition):
        found = predict(x, t, condition)
        if not torch.is_grad_enabled():
            found.x0[1] = math.inf
        return found

    trainer.editor.predict = overflowing
    batch, entry = trainer.step()
    assert entry["statuses"] == {"ok": 7, "error": 1} and math.isfinite(entry["grad_norm"])
    assert torch.isfinite(batch.trajectory.final).all() and trainer.policies.finite()


def test_an_iteration_without_an_image_is_an_error_that_says_so(make):
    trainer = make()
    not_finite(trainer, lambda count: slice(None))
    with pytest.raises(TrainingError, match="made none of the 8 edits of this iteration: .*not finite"):
        trainer.step()
    with pytest.raises(TrainingError, match="made none of the monitor's 2 edits: .*not finite"):
        trainer.monitor()


def test_a_monitored_image_that_is_not_finite_is_counted(make):
    trainer = make()
    not_finite(trainer, lambda count: [0])
    entry = trainer.monitor()
    assert entry["statuses"] == {"error": 1, "ok": 1} and entry["values"].count(None) == 1


# ---- errors


def fail_at(number):
    def before(calls):
        if calls == number:
            raise ZeroDivisionError("the judge is broken")

    return before


def test_what_was_trained_is_saved_before_an_error_ends_the_run(make, tmp_path, capsys):
    make("whole").fit(resume=False)
    with pytest.raises(ZeroDivisionError):
        make("parted", Redness(fail_at(4))).fit(resume=False)  # in the third iteration: the first one scores twice
    assert latest_checkpoint(tmp_path / "parted") == 2
    assert "saved before the error: iteration 2, in" in capsys.readouterr().err
    make("parted").fit(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parted")


def test_an_evaluation_that_failed_is_made_up_for(make, tmp_path):
    make("whole").fit(resume=False)
    with pytest.raises(ZeroDivisionError):
        make("parted", monitor=Redness(fail_at(2))).fit(resume=False)  # after the third iteration
    assert latest_checkpoint(tmp_path / "parted") == 3
    make("parted").fit(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parted")


def test_an_error_between_two_updates_keeps_the_first(make, tmp_path, capsys):
    trainer = make()
    descend, calls = trainer.updater._descend, []

    def failing(*arguments):
        calls.append(None)
        if len(calls) == 4:  # the second update of the second iteration
            raise RuntimeError("out of memory")
        return descend(*arguments)

    trainer.updater._descend = failing
    with pytest.raises(RuntimeError):
        trainer.fit(resume=False)
    found = load_checkpoint(tmp_path / "run")
    assert found.step == 1 and found.state["updates"] == 3
    assert "iteration 1, with 1 updates of the next" in capsys.readouterr().err
    for name, parameter in trainer.policies.present.items():
        assert torch.equal(parameter.detach(), found.tensors["policy"][name])
    make().fit(resume=True)
    assert latest_checkpoint(tmp_path / "run") == 4


def test_weights_that_are_not_finite_never_replace_a_checkpoint(make, tmp_path, capsys):
    make(loop__steps=1).fit(resume=False)
    trainer = make(reward=Redness(fail_at(2)))

    def spoil(calls):
        if calls == 2:
            with torch.no_grad():
                next(iter(trainer.policies.parameters())).fill_(math.nan)
            raise ZeroDivisionError

    trainer.roles.reward.before = spoil
    with pytest.raises(ZeroDivisionError):
        trainer.fit(resume=True)
    assert latest_checkpoint(tmp_path / "run") == 1 and "not finite" in capsys.readouterr().err


def test_an_error_before_anything_was_trained_leaves_no_checkpoint(make, tmp_path):
    with pytest.raises(ZeroDivisionError):
        make(reward=Redness(fail_at(1))).fit(resume=False)
    assert latest_checkpoint(tmp_path / "run") is None


# ---- resume


def test_length_saving_and_trackers_may_change(make, tmp_path):
    make(loop__steps=1).fit(resume=False)
    make(loop__steps=2, loop__save_minutes=5, trackers=["tensorboard"]).fit(resume=True)
    assert latest_checkpoint(tmp_path / "run") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loop__lr": 5e-3}, "loop.lr was 0.001 and is 0.005"),
        ({"algorithm": {"name": "raft"}}, "algorithm.name was 'grpo' and is 'raft'"),
        ({"algorithm__clip": 0.5}, "algorithm.clip was 0.01 and is 0.5"),
        ({"rollout__window": 1}, "rollout.window was 2 and is 1"),
        ({"roles__reward": "clip:tiny"}, "roles.reward was 'pixels' and is 'clip:tiny'"),
        ({"loop__seed": 3}, "loop.seed was 0 and is 3"),
    ],
)
def test_another_recipe_is_refused_by_its_keys(make, tmp_path, change, said):
    make(loop__steps=1).fit(resume=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match=said):
        make(**change).fit(resume=True)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_judge_may_move_to_another_server(make):
    judge = "openai:http://10.0.0.{}:8000/v1#Qwen/Qwen2.5-VL-7B-Instruct?concurrency=8"
    make(loop__steps=1, roles__reward=judge.format(1)).fit(resume=False)
    make(loop__steps=1, roles__reward=judge.format(2)).fit(resume=True)
    with pytest.raises(ConfigError, match="roles.reward was"):
        make(loop__steps=1, roles__reward=judge.format(2).replace("7B", "32B")).fit(resume=True)


def change_checkpoint(folder, change):
    path = next(folder.glob("checkpoint-*")) / "state.json"
    record = json.loads(path.read_text())
    change(record["state"])
    path.write_text(json.dumps(record))


def test_a_checkpoint_of_an_older_version_goes_on(make, tmp_path):
    """Which had one noise floor, one counter of skipped updates, and no key for what has a default now."""
    make(loop__steps=1).fit(resume=False)

    def older(state):
        state["noise"] = 0.25
        del state["skipped_in_a_row"], state["unreadable"], state["recipe"]["roles"]["by"]

    change_checkpoint(tmp_path / "run", older)
    trainer = make(loop__steps=2)
    trainer.fit(resume=True)
    assert trainer.scoring.noise.overall == 0.25 and latest_checkpoint(tmp_path / "run") == 2


def test_a_checkpoint_with_settings_that_are_none_now_is_refused_in_words(make, tmp_path):
    changes = {"algorithm": {"name": "raft"}, "rollout__window": 0, "loop__steps": 1}
    make(**changes).fit(resume=False)
    change_checkpoint(tmp_path / "run", lambda state: state["recipe"]["algorithm"].update(error="noise"))
    with pytest.raises(ConfigError, match="another version.*the editor's to say.*start a new run in another --out"):
        make(**changes).fit(resume=True)


def test_machines_that_do_not_share_the_folder_are_told(make, tmp_path):
    make(loop__steps=1).fit(resume=False)
    trainer = make(loop__steps=2)
    trainer.processes.gather = lambda value: [value, None]
    with pytest.raises(
        ConfigError, match=r"different checkpoints in .*\(process 0: 1, process 1: none\).*all machines share"
    ):
        states.restore(trainer.state, trainer.folder, trainer.processes)


def test_processes_that_see_other_rows_are_told(make, monkeypatch):
    monkeypatch.setattr("editing.processes.Processes.gather", lambda self, value: [value, 4])
    with pytest.raises(ConfigError, match="rows.jsonl: the processes can use 5, 4 of its rows"):
        make()


# ---- what is measured and counted


def test_each_part_has_a_noise_of_its_own(make):
    config = {"floor": 1e-5, "normalise": "parts", "parts": {"red": 1, "green": 1}, "conjunction": "drop"}
    trainer = make(reward=Redness(noise=0.2), advantage=config)
    _, entry = trainer.step()
    assert entry["repeat_noise"] == 0
    assert entry["repeat_noise_parts"] == pytest.approx({"red": 0, "green": 0.2 / math.sqrt(2)})
    again = make(advantage=config)
    again.scoring.restore(json.loads(json.dumps(trainer.scoring.state())))
    assert again.scoring.noise == trainer.scoring.noise


@pytest.mark.parametrize("updates", [3, 5, 7])
def test_an_iteration_has_as_many_updates_as_the_recipe_says(make, updates):
    trainer = make(loop__updates=updates, advantage__floor=1e-9)
    trainer.step()
    assert trainer.updater.updates == updates


def test_skipped_counts_the_updates_of_the_whole_run(make):
    trainer = make(loop__updates=1)
    norms = iter([math.nan, 1.0, math.nan])
    trainer.accelerator.clip_grad_norm_ = lambda *given: torch.tensor(next(norms))
    assert [trainer.step()[1]["skipped"] for _ in range(3)] == [1, 1, 2]


def test_a_dimension_of_failed_scores_alone_has_no_mean():
    from editing.evaluation import Evaluation

    failed = Score(math.nan, {"red": 0.5}, status="timeout", error="too slow")
    found = Evaluation((failed, Score(0.5, {"green": 0.25})), (None, None)).summary()
    assert math.isnan(found["red"]) and found["green"] == 0.25


def test_the_file_of_the_monitor_is_read_once(make, monkeypatch):
    from editing import trainer as module

    calls = []
    monkeypatch.setattr(module, "load_tasks", lambda config: calls.append(config) or load_tasks(config))
    trainer = make()
    trainer.monitor()
    trainer.monitor()
    assert calls == [trainer.recipe.evaluation.monitor]


def test_the_steps_before_the_window_are_taken_once_for_a_group(make, monkeypatch):
    trainer = make(rollout={"groups": 2, "members": 4, "steps": 4, "window": 1, "place": "sliding", "start": "shared"})
    trainer.state.iteration = 2
    predict, counts = trainer.editor.predict, []
    trainer.editor.predict = lambda x, t, condition: counts.append(len(x)) or predict(x, t, condition)
    trainer.clock.start()
    batch = trainer._sample(None)
    assert counts == [2, 2, 8, 8]
    before = batch.trajectory.latents[0].unflatten(0, (2, 4))
    assert torch.equal(before, before[:, :1].expand_as(before))
    assert not torch.equal(before[0, 0], before[1, 0])


def test_divergence_under_autocast_is_that_of_float32(make):
    """Autocast keeps its casts of the weights; swapped weights must not be seen as the earlier ones."""
    from editing.divergence import kl_nats
    from editing.precision import Precision

    trainer = make(policy__ema=0)
    with torch.no_grad():
        for parameter in trainer.policies.parameters():
            parameter.mul_(1.05)
    tasks = [load_tasks(TaskConfig(split="validation")).task(0)]
    full, half = (
        kl_nats(trainer.editor, trainer.policies, tasks, trainer.recipe.rollout, Precision(torch.device("cpu"), kind))
        for kind in ("no", "bf16")
    )
    assert half == pytest.approx(full, rel=0.1) and full[0] > 0
