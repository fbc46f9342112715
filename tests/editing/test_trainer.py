"""The trainer on a small random editor: it learns, resumes exactly, keeps failures out, and refuses what cannot be."""

import copy
import json
import math
import os
import signal
import threading
import time
from itertools import count

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageStat

from editing import trainer as trainer_module
from editing.data import Task
from editing.divergence import kl_nats
from editing.journal import Journal
from editing.recipe import Recipe
from editing.roles import Roles, RolesConfig, check_roles, measures
from editing.rollout import replay
from editing.trainer import Trainer, run
from editing.transition import rule_from
from editing.weights import Policies, PolicyConfig
from mmreward.config import ConfigError, read_config
from mmreward.reward import Reward
from mmreward.score import Score
from mmreward.training import Interrupted, TrainingError, load_checkpoint, read_log
from mmreward.training.checkpoint import latest_checkpoint

ROLES = {"reward": "pixels", "monitor": "oracle"}


class Redness(Reward):
    """A reward that a few steps can raise: the mean of the red channel. `fails` says which edits have no score."""

    name, dims = "redness", ("instruction_following",)

    def __init__(self, fails=lambda number: False):
        self.fails, self.calls = fails, 0

    def score(self, edits):
        self.calls += 1
        scores = []
        for number, edit in enumerate(edits):
            red = ImageStat.Stat(edit.image("edited")).mean[0] / 255
            scores.append(Score.failed("timeout", "too slow") if self.fails(number) else Score(red))
        return scores


class Squares:
    """Tasks with plain sources."""

    def task(self, index):
        source = Image.new("RGB", (64, 64), (40 * index % 256, 90, 120))
        return Task(f"square-{index}", source, "make the circle red", target=source)


def recipe(**changes) -> Recipe:
    settings = {
        "roles": ROLES,
        "rollout": {"groups": 2, "members": 4, "steps": 4, "window": 2, "rule": "flow", "eta": 0.7},
        "policy": {"weights": "full", "ema": 0.5},
        "algorithm": {"name": "grpo", "clip": 1e-2},
        "loop": {"steps": 4, "lr": 1e-3, "warmup": 0, "autocast": "no", "micro_batch": 4, "updates": 2},
        "advantage": {"floor": 1e-5},
        "evaluation": {"every": 2, "monitor_tasks": 2, "final_tasks": 3},
    }
    for path, value in changes.items():
        inner = settings
        *parents, last = path.split("__")
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    return Recipe.model_validate(settings)


@pytest.fixture
def make(random_editor, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "load_tasks", lambda config: Squares())

    def build(name="run", reward=None, on_log=None, **changes):
        settings = recipe(**changes)
        editor = copy.deepcopy(random_editor)
        editor.module.requires_grad_(True)
        roles = Roles(reward or Redness(), Redness(), Redness())
        return Trainer(settings, editor, roles, Squares(), tmp_path / name, Accelerator(cpu=True), on_log)

    return build


def test_reward_rises_and_everything_is_written(make, tmp_path):
    changes = {"rollout__members": 8, "evaluation__every": 6, "evaluation__final_tasks": 12, "algorithm__clip": 0.1}
    trainer = make(loop__steps=12, loop__lr=1e-2, **changes)
    trainer.fit(resume=False)
    result = trainer.finish()
    log = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "train"]
    final = json.loads((tmp_path / "run" / "result.json").read_text())["final"]
    assert result.after.overall > result.before.overall and final["pairs"] == 12
    assert final["change"] > 3 * final["standard_error"]
    assert set(log[0]["timing"]) == {"encode", "sample", "decode", "reward", "update", "other"}
    assert log[0]["repeat_noise"] == 0 and log[0]["statuses"] == {"ok": 16}
    monitor = [line["step"] for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "monitor"]
    assert monitor == [0, 6, 12]
    assert (tmp_path / "run" / "grids" / "iteration-000006.png").is_file()
    assert (tmp_path / "run" / "model" / "model_index.json").is_file()


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resume_equals_never_stopped(make, tmp_path, weights):
    common = {"policy__weights": weights, "algorithm__kl": 0.1}
    make("whole", **common).fit(resume=False)

    def interrupt(entry):
        if entry["step"] == 2 and entry["kind"] == "train":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        make("parted", on_log=interrupt, **common).fit(resume=False)
    assert load_checkpoint(tmp_path / "parted").step == 2
    with pytest.raises(ConfigError, match="--resume"):
        make("parted", **common).fit(resume=False)
    make("parted", **common).fit(resume=True)
    a, b = load_checkpoint(tmp_path / "whole"), load_checkpoint(tmp_path / "parted")
    assert a.step == b.step == 4 and set(a.tensors) == set(b.tensors)
    for table, values in a.tensors.items():
        assert all(torch.equal(value, b.tensors[table][name]) for name, value in values.items()), table

    def lines(name):
        kept = read_log(tmp_path / name / "log.jsonl")
        return [{k: v for k, v in line.items() if k not in ("seconds", "timing")} for line in kept]

    assert lines("whole") == lines("parted")


@pytest.mark.parametrize("autocast", ["no", "bf16"])
def test_a_replay_in_the_same_batch_is_the_rollout(make, autocast):
    trainer = make(loop__autocast=autocast)
    trainer.clock.start()
    batch = trainer._sample(None)
    for index in range(len(batch.trajectory.window)):
        with trainer.precision.forward():
            again = replay(trainer.editor, batch.condition, batch.trajectory, index)
        assert again.logp.requires_grad and torch.equal(again.logp.detach(), batch.trajectory.logp[index])


@pytest.mark.parametrize("autocast", ["no", "bf16"])
def test_first_update_is_on_policy(make, autocast):
    trainer = make(loop__autocast=autocast, loop__updates=1, loop__micro_batch=3)
    _, entry = trainer.step()
    assert entry["ratio_deviation"] <= 1e-6 and entry["clip_fraction"] == 0


def test_off_policy_start_is_refused(make, monkeypatch):
    trainer = make()
    real = trainer_module.collect

    def shifted(*args):
        batch = real(*args)
        batch.trajectory.logp.add_(0.1)
        return batch

    monkeypatch.setattr(trainer_module, "collect", shifted)
    with pytest.raises(TrainingError, match="not on-policy"):
        trainer.step()


def test_gradient_does_not_depend_on_the_micro_batch(make, monkeypatch):
    """The gradient itself: of a tiny one Adam makes a step of full length, whichever way it was rounded."""
    gradients = []
    for size in (8, 3, 1):
        trainer = make(f"run{size}", loop__micro_batch=size, loop__updates=1)
        parameters = trainer.policies.parameters()

        def keep(factor, parameters=parameters):
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))

        monkeypatch.setattr(trainer.updater.optimizers, "step", keep)
        trainer.step()
    whole, *parted = gradients
    assert len(parted) == 2 and whole.norm() > 0
    for other in parted:
        assert torch.allclose(whole, other, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_failures_are_masked_counted_and_bounded(make):
    trainer = make(reward=Redness(lambda number: number == 1))
    batch, entry = trainer.step()
    assert entry["statuses"] == {"ok": 7, "timeout": 1}
    with pytest.raises(TrainingError, match="of the last 8 edits have no score.*timeout, too slow"):
        make("worse", reward=Redness(lambda number: number % 2)).step()
    whole_group = make("group", reward=Redness(lambda number: number < 3), loop__max_failures=0.5)
    assert whole_group.step()[1]["dropped_groups"] == 1
    nothing = make("nothing", reward=Redness(lambda number: True), loop__max_failures=1.0)
    before = [p.detach().clone() for p in nothing.policies.parameters()]
    nothing.step()
    assert all(torch.equal(a, b) for a, b in zip(before, nothing.policies.parameters()))


def test_every_lora_parameter_gets_a_gradient(make):
    trainer = make(policy__weights="lora", loop__updates=1)
    trainer.step()  # after it the second factors are no longer zero
    start = {name: p.detach().clone() for name, p in trainer.policies.present.items()}
    trainer.step()
    assert start and all("lora" in name for name in start)
    assert all(not torch.equal(p, start[name]) for name, p in trainer.policies.present.items())


def test_a_trained_lora_is_saved_merged(make, tmp_path):
    from editing.editors import load_editor
    from editing.evaluation import sample

    trainer = make(policy__weights="lora", loop__lr=1e-2, algorithm__clip=0.1)
    tasks = [Squares().task(index) for index in range(2)]
    before = sample(trainer.editor, tasks, 2)
    trainer.fit(resume=False)
    trainer.finish()
    trained = sample(trainer.editor, tasks, 2)
    loaded = sample(load_editor(str(tmp_path / "run" / "model")), tasks, 2)
    for start, ours, theirs in zip(before, trained, loaded, strict=True):
        ours, theirs, start = (torch.tensor(list(image.tobytes())).float() for image in (ours, theirs, start))
        assert (ours - theirs).abs().max() <= 1 and (ours - start).abs().max() > 3


@pytest.mark.parametrize("export, folders", [("both", {"model", "lora"}), ("lora", {"lora"}), ("merged", {"model"})])
def test_a_lora_run_writes_its_lora(make, tmp_path, export, folders):
    """What is written, in plain diffusers on the untouched start, predicts what the trained network does."""
    trainer = make(policy__weights="lora", policy__rank=2, policy__alpha=8, policy__export=export, loop__lr=1e-2)
    editor, start = trainer.editor, copy.deepcopy(trainer.editor.pipeline)
    start.transformer.delete_adapters("default")
    trainer.fit(resume=False)
    trainer.finish()
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} & {"model", "lora"} == folders
    if "lora" in folders:
        condition = editor.encode([Image.new("RGB", (64, 64), "red")], ["make the circle blue"])[0]
        x = editor.prior("g", 0, condition.latent_shape)[None]
        start.load_lora_weights(run / "lora")
        with torch.no_grad():
            plain, trained = (
                type(editor)(pipeline, max_tokens=editor.max_tokens).predict(x, 0.5, condition).x0
                for pipeline in (start, editor.pipeline)
            )
            start.delete_adapters("default_0")
            untouched = type(editor)(start, max_tokens=editor.max_tokens).predict(x, 0.5, condition).x0
        assert torch.allclose(plain, trained, atol=1e-5) and not torch.allclose(untouched, trained, atol=1e-4)


def test_checkpoint_of_other_settings_is_refused(make):
    make().fit(resume=False)
    with pytest.raises(ConfigError, match="policy.weights was 'full' and is 'lora'"):
        make(policy__weights="lora").fit(resume=True)


def test_policy_sets(random_editor):
    editor = copy.deepcopy(random_editor)
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=2, alpha=2), ("start", "ema"))
    name, parameter = next(iter(policies.present.items()))
    with torch.no_grad():
        parameter.add_(1)
    moved = parameter.detach().clone()
    policies.follow("ema", 0.75)
    assert torch.allclose(policies.sets["ema"][name], policies.sets["start"][name] + 0.25)
    with policies.use("start"):
        assert torch.equal(parameter, policies.sets["start"][name])
        assert parameter.data_ptr() == policies.sets["start"][name].data_ptr()  # nothing is copied
    assert torch.equal(parameter, moved)
    policies.adopt("ema")
    assert torch.allclose(parameter, moved - 0.75) and policies.distance("start") > 0


@pytest.mark.parametrize(
    "roles",
    [
        {"reward": "pixels", "monitor": "pixels"},
        {"reward": "recommended", "monitor": "clip:tiny?domain=any", "final": "oracle"},
        {"reward": {"members": {"a": "oracle", "b": {"reward": "pixels"}}}, "monitor": "clip:tiny", "final": "oracle"},
    ],
)
def test_a_measure_with_two_roles_is_refused(roles):
    with pytest.raises(ConfigError, match="is both"):
        check_roles(RolesConfig(**roles))


def test_measures_of_a_combination():
    assert measures("recommended") == {"vlm:tiny", "clip:tiny", "pixels"}
    check_roles(RolesConfig(reward="recommended", monitor="target", final="oracle"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lopp": {}}, "did you mean 'loop'"),
        ({"loop": {"stepz": 3}}, "did you mean 'steps'"),
        ({"rollout": {"window": 8, "steps": 8, "rule": "cps"}}, "window 8 must be smaller than steps 8"),
        ({"rollout": {"window": 9, "steps": 8}}, "window 9 is more than the 8 steps"),
        ({"rollout": {"rule": "cps", "eta": 1.2}}, "eta 1.2 with the rule 'cps': expected at most 1"),
        ({"rollout": {"rule": "ddim", "eta": 1.5}}, "eta 1.5 with the rule 'ddim': expected at most 1"),
        ({"policy": {"ema": 0, "keep": 0.5}}, "keep 0.5 is a share of the average, and with ema: 0 there is none"),
        (
            {"policy": {"weights": "layers"}, "editor": "a/b?dtype=bfloat16", "loop": {"steps": 1, "autocast": "no"}},
            "policy.weights: layers with loop.autocast: no and an editor in half precision",
        ),
        ({"rollout": {"members": 1}}, "rollout.members"),
        ({"rollout": {"within": 5}}, "set place: sliding"),
        ({"rollout": {"within": 8, "place": "sliding", "rule": "cps"}}, "within 8: expected at least the window, 3"),
        ({"rollout": {"within": 9, "place": "sliding"}}, "within 9: expected at least the window, 3, and at most 8"),
        ({"rollout": {"start": "shared", "window": 0}}, "start: shared needs noise"),
        ({"rollout": {"rule": "floww"}}, "unknown sampling rule"),
        ({"algorithm": {"name": "gpro"}}, "one of grpo"),
        ({"loop": {"steps": 1, "updates": 500}}, "loop.updates 500"),
        ({"loop": {"steps": 1, "ema": 0.9}}, "policy.ema"),
    ],
)
def test_wrong_recipes_are_explained(change, message):
    with pytest.raises(ConfigError, match=message):
        read_config(Recipe, {"roles": ROLES, "loop": {"steps": 1}, **change})


def test_unknown_algorithm_setting_is_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'klip'; did you mean 'clip'"):
        run({"roles": ROLES, "loop": {"steps": 1}, "algorithm": {"name": "grpo", "klip": 1}}, tmp_path, False)


def test_only_the_named_layers_move(random_editor):
    editor = copy.deepcopy(random_editor)
    named = PolicyConfig(weights="layers", layers=("to_q", "ff.net.2"))
    moving = {name for name, p in Policies.of(editor, named).module.named_parameters() if p.requires_grad}
    assert moving and all(".to_q." in name or ".ff.net.2." in name for name in moving)
    own = Policies.of(editor, PolicyConfig(weights="layers")).present
    assert own and not any("norm" in name or "time_text_embed" in name for name in own)


def test_a_layer_that_is_not_there_is_refused(random_editor):
    with pytest.raises(ConfigError, match=r"policy\.layers: .*'to_x'"):
        Policies.of(copy.deepcopy(random_editor), PolicyConfig(weights="layers", layers=("to_q", "to_x")))


def test_a_sliding_window_never_reaches_the_last_step():
    rollout = recipe(rollout__place="sliding").rollout
    assert [list(rollout.window_of(i)) for i in range(3)] == [[0, 1], [1, 2], [0, 1]]
    assert list(recipe().rollout.window_of(7)) == [0, 1]


def test_a_sliding_window_stays_within_its_steps():
    rollout = recipe(rollout__steps=8, rollout__window=1, rollout__place="sliding", rollout__within=3).rollout
    assert [list(rollout.window_of(i)) for i in range(4)] == [[0], [1], [2], [0]]
    assert rollout.trained == 3


def test_members_with_a_shared_start_part_in_the_window(make):
    trainer = make(rollout__steps=4, rollout__window=1, rollout__place="sliding", rollout__start="shared")
    trainer.state.iteration = 2
    groups, members = trainer.recipe.rollout.groups, trainer.recipe.rollout.members
    trainer.clock.start()
    trajectory = trainer._sample(None).trajectory
    assert trajectory.window == (2,)
    before, after = (kept[0].unflatten(0, (groups, members)) for kept in (trajectory.latents, trajectory.prev))
    assert torch.allclose(before, before[:, :1].expand_as(before), atol=1e-5)
    assert (after[:, 1:] - after[:, :1]).abs().amax(dim=(2, 3)).min() > 0.01


def test_a_share_of_the_start_is_kept(random_editor):
    policies = Policies.of(copy.deepcopy(random_editor), PolicyConfig(weights="full"), ("start", "ema"))
    name, weight = next(iter(policies.present.items()))
    start = weight.detach().clone()
    policies.sets["ema"][name] += 4.0
    with policies.use("ema", keep=0.25):
        assert torch.allclose(weight, start + 3.0)
    assert torch.equal(weight, start)
    policies.adopt("ema", keep=0.25)
    assert torch.allclose(weight, start + 3.0)


def test_overlap_gives_the_same_bits_and_scores_one_piece_while_the_next_is_made(make, monkeypatch):
    """The first piece's scores and the second piece's images each wait for the other's beginning."""
    scoring, decoding = threading.Event(), threading.Event()

    class Slow(Redness):
        overlaps = False

        def score(self, edits):
            if self.overlaps:
                scoring.set()
                assert decoding.wait(60), "the next piece is not made while one is scored"
            time.sleep(0.03 * len(edits))
            return super().score(edits)

    found = {}
    for overlap in (False, True):
        reward = Slow()
        trainer = make(f"{overlap}", reward, rollout__batch=2, loop__overlap=overlap)
        trainer.step()  # scores twice, for the repeat noise
        if overlap:
            decode, batches = trainer.editor.decode, count(1)

            def meeting(*args, decode=decode, batches=batches):
                if next(batches) == 3:  # two pieces of two batches: the second piece begins
                    decoding.set()
                    assert scoring.wait(60), "no piece is scored while the next is made"
                return decode(*args)

            reward.overlaps = True
            monkeypatch.setattr(trainer.editor, "decode", meeting)
        batch, entry = trainer.step()
        weights = [p.detach().clone() for p in trainer.policies.parameters()]
        found[overlap] = (batch.trajectory.final, weights, entry["reward"], entry["timing"]["reward"])
    (latents, weights, mean, waited), (latents_too, weights_too, mean_too, _) = found.values()
    assert torch.equal(latents, latents_too) and mean == mean_too
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_too, strict=True))
    assert waited >= 8 * 0.03


def test_overlap_needs_two_pieces(make):
    with pytest.raises(ConfigError, match="loop.overlap: a process has 8 samples .* lower rollout.batch to at most 4"):
        make(loop__overlap=True)


def test_gradient_checkpointing_changes_memory_only(make):
    found = []
    for checkpointing in (False, True):
        trainer = make(f"{checkpointing}", loop__gradient_checkpointing=checkpointing, loop__autocast="bf16")
        trainer.step()
        found.append([p.detach().clone() for p in trainer.policies.parameters()])
    assert trainer.editor.module.gradient_checkpointing
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_divergence_is_that_of_the_steps_in_nats(make):
    trainer = make(policy__ema=0)
    tasks, config = [Squares().task(0)], trainer.recipe.rollout
    assert kl_nats(trainer.editor, trainer.policies, tasks, config, trainer.precision) == [0.0]
    with torch.no_grad():
        trainer.policies.present["proj_out.bias"].add_(0.1)  # of the velocity, everywhere
    condition = trainer.editor.collate(trainer.editor.encode([tasks[0].source], [tasks[0].instruction]))
    levels, expected = trainer.editor.schedule(config.steps, condition.latent_shape), 0.0
    for t, t_next in zip(levels[:-2], levels[1:-1], strict=True):
        c = rule_from(config.rule, config.eta).coefficients(t, t_next)
        shift = 0.1 * float(c.eps * (1 - t) - c.x0 * t)
        expected += math.prod(condition.latent_shape) * shift**2 / (2 * float(c.std) ** 2)
    found = kl_nats(trainer.editor, trainer.policies, tasks, config, trainer.precision)
    assert found == pytest.approx([expected], rel=1e-3)
    assert trainer.monitor()["kl_nats"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_wait_until_a_checkpoint_is_written(make, tmp_path, monkeypatch, rank):
    trainer, seen = make(), []
    trainer.processes.rank = rank
    monkeypatch.setattr(trainer.processes, "gather", lambda value: seen.append(latest_checkpoint(tmp_path / "run")))
    trainer._save()
    assert seen == [0 if rank == 0 else None]


def test_only_one_process_writes_the_journal(tmp_path):
    heard = []
    for speaks in (True, False):
        with Journal(tmp_path / str(speaks), (), None, heard.append, speaks) as journal:
            journal.write({"step": 1})
            journal.progress(0.5, 1.0, "half")
    assert heard == [{"step": 1}] and read_log(tmp_path / "True" / "log.jsonl") == heard
    assert not (tmp_path / "False").exists()


def test_what_is_trained_is_float32(random_editor):
    editor = copy.deepcopy(random_editor)
    editor.module.to(torch.bfloat16)
    policies = Policies.of(editor, PolicyConfig(weights="lora", rank=2, alpha=2))
    assert all(p.dtype == torch.float32 for p in policies.parameters())
    assert {p.dtype for p in editor.module.parameters() if not p.requires_grad} == {torch.bfloat16}
