"""Noised samples and one iteration of every bundled recipe of an algorithm, on a small random editor."""

import copy

import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageStat

from editing import trainer as trainer_module
from editing.data import Task
from editing.editors.editor import seeded_noise
from editing.recipe import Recipe
from editing.roles import Roles
from editing.state import restore
from editing.trainer import Trainer, load_algorithm
from mmreward.combine import Combination, Member, Weighted
from mmreward.config import ConfigError, read_config, read_yaml
from mmreward.preference import Preference
from mmreward.reward import Reward
from mmreward.score import Score

SMALL = {
    "rollout": {"groups": 2, "members": 4, "steps": 4},
    "policy": {"weights": "full", "ema": 0.5},
    "loop": {"steps": 1, "lr": 1e-3, "warmup": 0, "autocast": "no", "micro_batch": 8, "updates": 1},
    "advantage": {"floor": 1e-5},
    "evaluation": {"every": 2, "monitor_tasks": 2, "final_tasks": 2},
}


class Redness(Reward):
    """The mean of the red channel; the edits whose numbers are in `fails` have no score."""

    name, dims = "redness", ("instruction_following",)

    def __init__(self, fails=()):
        self.fails = fails

    def score(self, edits):
        red = [ImageStat.Stat(edit.image("edited")).mean[0] / 255 for edit in edits]
        failed = Score.failed("refused", "no")
        scores = [Score(value, {"instruction_following": value}) for value in red]
        return [failed if number in self.fails else score for number, score in enumerate(scores)]

    def compare(self, pairs):
        reds = [[ImageStat.Stat(edit.image("edited")).mean[0] for edit in pair] for pair in pairs]
        return [Preference(first=float(a > b), tie=float(a == b)) for a, b in reds]


class Squares:
    def task(self, index):
        source = Image.new("RGB", (64, 64), (40 * index % 256, 90, 120))
        return Task(f"square-{index}", source, "make the circle red", target=source)


@pytest.fixture
def make(random_editor, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "load_tasks", lambda config: Squares())

    def build(algorithm, reward=None, **changes):
        settings = {key: {**value, **changes.get(key, {})} for key, value in SMALL.items()}
        roles = {"reward": "pixels", "monitor": "oracle"}
        recipe = Recipe.model_validate({"roles": roles, "algorithm": algorithm, **settings})
        editor = copy.deepcopy(random_editor)
        editor.module.requires_grad_(True)
        given = Roles(reward or Redness(), Redness(), None)
        return Trainer(recipe, editor, given, Squares(), tmp_path, Accelerator(cpu=True))

    return build


def flat(trainer, name=None):
    table = trainer.policies.sets[name] if name else trainer.policies.present
    return torch.cat([value.detach().flatten() for value in table.values()])


@pytest.mark.parametrize("name", ["nft", "raft", "rwr", "grpo-guard", "pref-grpo"])
def test_one_iteration_of_the_bundled_recipe(make, name):
    recipe = read_yaml(trainer_module.Path(trainer_module.__file__).parent / "recipes" / f"{name}-tiny.yaml")
    assert recipe.pop("task") == "reward"
    read_config(Recipe, recipe)
    rollout = {key: value for key, value in recipe["rollout"].items() if key in ("window", "rule", "eta")}
    trainer = make(recipe["algorithm"], rollout=rollout)
    before = flat(trainer)
    _, entry = trainer.step()
    assert not torch.equal(flat(trainer), before)
    assert entry["grad_norm"] > 0 and entry["skipped"] == 0 and torch.isfinite(torch.tensor(entry["loss"]))
    assert entry["statuses"] == {"ok": 8} and entry["unscored"]["groups"] == 0


def test_nft_moves_the_old_policy_and_samples_with_it(make, monkeypatch):
    trainer = make({"name": "nft", "kl": 0.0, "levels": 2, "old": {"slope": 0.4, "limit": 0.5}})
    start = flat(trainer)
    trainer.step()
    moved = flat(trainer)
    assert torch.allclose(flat(trainer, "old"), 0.4 * start + 0.6 * moved, atol=1e-6)
    seen = []
    real = trainer_module.collect
    monkeypatch.setattr(trainer_module, "collect", lambda *args: seen.append(flat(trainer)) or real(*args))
    trainer.state.iteration += 1
    trainer.step()
    assert torch.allclose(seen[0], 0.4 * start + 0.6 * moved, atol=1e-6)


def test_resume_restores_the_old_policy_and_the_counts(make):
    settings = {"name": "nft", "levels": 1, "kl": 0.0, "old": {"slope": 0.4, "limit": 0.5}}
    whole = make(settings)
    whole.step()
    whole.state.iteration += 1
    whole._save()
    whole.step()
    resumed = make(settings)
    assert restore(resumed.state, resumed.folder, resumed.processes)
    assert list(resumed.scoring.unscored.state) == [[0.0, 0.0]]
    resumed.step()
    assert torch.equal(flat(whole), flat(resumed)) and torch.equal(flat(whole, "old"), flat(resumed, "old"))


def batch_of(trainer):
    captured = {}
    update = trainer.updater.update

    def keep(batch, signal, iteration, fraction):
        captured.update(batch=batch, signal=signal)
        return update(batch, signal, iteration, fraction)

    trainer.updater.update = keep
    trainer.step()
    return captured["batch"], captured["signal"]


def test_noised_samples_are_the_flow_of_named_noise(make):
    trainer = make({"name": "nft", "kl": 0.1, "levels": 3, "old": {"slope": 0}})
    batch, signal = batch_of(trainer)
    examples = trainer.updater.examples
    examples.begin_update()
    assert examples.same  # it has followed the update
    rows = torch.tensor([5, 2])
    found = [examples.example(batch, signal, rows, index, 0) for index in range(4)]
    levels = torch.stack([given.t.flatten() for given in found], dim=1)
    assert all(sorted(row.tolist()) == sorted(batch.trajectory.sigmas[:-1].tolist()) for row in levels)
    given = found[1]
    noise = seeded_noise(tuple(given.x0.shape[1:]), "noised", 0, 0, "square-1", 1, 1)  # row 5: second task, member 1
    t = given.t[0]
    x = ((1 - t) * batch.trajectory.final[5] + t * noise)[None]
    predicted = trainer.editor.predict(x, t.flatten(), batch.condition.select([5])).x0
    assert torch.allclose(predicted, given.predicted[:1], atol=1e-4)
    assert torch.equal(given.old, given.predicted.detach()) and given.predicted.requires_grad
    assert not torch.equal(given.reference, given.old) and torch.equal(given.x0, batch.trajectory.final[rows])
    examples.same = False
    assert torch.allclose(examples.example(batch, signal, rows, 1, 0).old, given.old, atol=1e-5)


@pytest.mark.parametrize("name", ["nft", "raft", "rwr"])
def test_only_levels_of_the_first_steps_are_drawn(make, name):
    trainer = make({"name": name, "levels": 3, "window": 2})
    batch, signal = batch_of(trainer)
    sigmas, rows = batch.trajectory.sigmas, torch.arange(8)
    drawn = [trainer.updater.examples.example(batch, signal, rows, index, 0).t.flatten() for index in range(3)]
    assert set(torch.cat(drawn).tolist()) == set(sigmas[:2].tolist())
    assert (drawn[0] != drawn[1]).all()  # without repetition, as far as there are enough


@pytest.mark.parametrize("algorithm", [{"name": "nft", "levels": 2}, {"name": "rwr", "levels": 2}])
def test_gradient_does_not_depend_on_the_micro_batch(make, algorithm, monkeypatch):
    """The gradient itself: of a tiny one Adam makes a step of full length, whichever way it was rounded."""
    gradients = []
    for size in (8, 3):
        trainer = make(algorithm, loop={"micro_batch": size})
        parameters = trainer.updater.optimizers.parameters()

        def keep(factor, parameters=parameters):
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))

        monkeypatch.setattr(trainer.updater.optimizers, "step", keep)
        trainer.step()
    first, second = gradients
    assert first.norm() > 0 and torch.allclose(first, second, rtol=0, atol=1e-5 * float(first.abs().max()))


def test_a_sample_without_a_score_teaches_nothing(make):
    trainer = make({"name": "nft", "levels": 1}, reward=Redness((1, *range(4, 8))), loop={"max_failures": 1.0})
    batch, signal = batch_of(trainer)
    assert signal.weights.tolist() == [1, 0, 1, 1, 0, 0, 0, 0]
    given = trainer.updater.examples.example(batch, signal, torch.arange(8), 0, 0)
    (gradient,) = torch.autograd.grad(trainer.algorithm.loss(given).total, given.predicted)
    assert (gradient.abs().amax((1, 2)) > 0).tolist() == [True, False, True, True] + [False] * 4


def test_parts_of_the_reward_are_normalised_where_the_recipe_says_so(make):
    settings = {"normalise": "parts", "parts": {"instruction_following": 1.0}}
    with pytest.raises(ConfigError, match="alone is no sum"):
        make({"name": "rwr"}, advantage=settings)
    both = {"pixels": 1.0, "instruction_following": 1.0}
    reward = Combination("two", {"pixels": Member(Redness())}, Weighted(weights=both))
    trainer = make({"name": "rwr", "levels": 1}, reward=reward, advantage={"normalise": "parts"})
    _, signal = batch_of(trainer)
    assert trainer.scoring.parts.weights == both and signal.values.abs().sum() > 0


def test_a_trajectory_needs_noise(make):
    with pytest.raises(ConfigError, match="rollout.window: grpo learns from the noisy steps"):
        make({"name": "grpo"}, rollout={"window": 0})
    settings = {"roles": {"reward": "pixels", "monitor": "oracle"}, "loop": {"steps": 1}, "rollout": {"window": 0}}
    assert load_algorithm(Recipe.model_validate({**settings, "algorithm": {"name": "raft"}})).needs.levels == 4
