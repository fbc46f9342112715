"""The anchor: a closed form, levels of the last steps only, gradients whatever the micro-batch, and what it is for."""

import copy

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from editing import trainer as trainer_module
from editing.advantage import Advantages
from editing.collect import Clock, collect
from editing.data import Task
from editing.recipe import AnchorConfig, Recipe
from editing.roles import Roles
from editing.trainer import Trainer
from mmreward.reward import Reward
from mmreward.score import Score

STEPS, LAST = 6, 2


class Same(Reward):
    name, dims = "same", ("quality",)

    def score(self, edits):
        return [Score(0.5, {"quality": 0.5}) for _ in edits]


class Squares:
    def task(self, index):
        return Task(f"square-{index}", Image.new("RGB", (64, 64), (40 * index % 256, 90, 120)), "make it red")


@pytest.fixture
def make(random_editor, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "load_tasks", lambda config: Squares())

    def build(micro_batch=16, anchor=None):
        recipe = Recipe.model_validate(
            {
                "roles": {"reward": "pixels", "monitor": "oracle"},
                "rollout": {"groups": 2, "members": 4, "steps": STEPS, "window": 2},
                "policy": {"weights": "full", "ema": 0},
                "anchor": anchor or {"weight": 2.0, "steps": LAST, "every": 1},
                "loop": {
                    "steps": 1,
                    "lr": 1e-4,
                    "warmup": 0,
                    "updates": 1,
                    "autocast": "no",
                    "micro_batch": micro_batch,
                },
            }
        )
        editor = copy.deepcopy(random_editor)
        return Trainer(recipe, editor, Roles(Same(), Same(), None), Squares(), tmp_path, Accelerator(cpu=True))

    return build


def sampled(trainer):
    recipe, tasks, clock = trainer.recipe, [Squares().task(i) for i in range(2)], Clock()
    clock.start()
    return collect(trainer.updater.editor, tasks, recipe.rollout, range(2), "n", trainer.precision, clock)


def nothing_to_gain():
    zeros = torch.zeros(8)
    return Advantages(zeros, torch.ones(8), zeros, missing=0, dropped_groups=0, filtered_groups=0, deviation=0.0)


def test_a_shifted_velocity_has_the_square_of_its_shift_as_distance(make):
    trainer = make()
    batch, rows = sampled(trainer), torch.arange(8)
    assert float(trainer.updater.anchor.distance(batch, rows, 0).detach().abs().max()) == 0
    with torch.no_grad():
        trainer.updater.editor.module.proj_out.bias += 0.25  # of the velocity
    found = trainer.updater.anchor.distance(batch, rows, 0)
    torch.testing.assert_close(found.detach(), torch.full((8,), 0.0625), rtol=1e-3, atol=1e-5)
    assert found.requires_grad


def test_only_levels_of_the_last_steps_are_drawn_and_none_depends_on_its_neighbours(make, monkeypatch):
    trainer = make()
    batch, editor, anchor = sampled(trainer), trainer.updater.editor, trainer.updater.anchor
    seen, predict = [], type(editor).predict
    monkeypatch.setattr(type(editor), "predict", lambda self, x, t, c: (seen.append((x, t)), predict(self, x, t, c))[1])
    for iteration in range(6):
        anchor.distance(batch, torch.arange(8), iteration)
    drawn = {round(float(level), 5) for _, t in seen for level in t}
    assert drawn == {round(float(level), 5) for level in batch.trajectory.sigmas[-1 - LAST : -1]}
    together = seen[-1]
    anchor.distance(batch, torch.tensor([5]), 5)
    assert torch.equal(seen[-1][0][0], together[0][5]) and torch.equal(seen[-1][1][0], together[1][5])


def test_gradients_do_not_depend_on_the_micro_batch(make):
    found = []
    for micro_batch in (16, 3):
        trainer = make(micro_batch)
        batch = sampled(trainer)
        with torch.no_grad():
            trainer.updater.editor.module.proj_out.bias += 0.1
        trainer.updater._backward(batch, nothing_to_gain(), torch.arange(8), 16.0, 0)
        found.append(trainer.updater.editor.module.proj_out.bias.grad.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    # d/db of 2 x mean (v - v_start)^2 over D numbers: each bias has its share of them
    torch.testing.assert_close(found[0].sum(), torch.tensor(2 * 2 * 0.1), rtol=1e-3, atol=1e-5)


def test_it_pulls_the_last_steps_back(make):
    trainer = make()
    updater, batch = trainer.updater, sampled(trainer)
    with torch.no_grad():
        updater.editor.module.proj_out.bias += 0.1
    updater.updates = 1  # the shifted weights did not sample
    told = [updater.update(batch, nothing_to_gain(), i, 0.0)["anchor"] for i in range(6)]
    assert told[0] == pytest.approx(0.01, rel=1e-2)
    assert told[-1] < 0.8 * told[0]


def test_steps_that_are_trained_cannot_be_held(make):
    with pytest.raises(ValueError, match="5 of 6 steps, of which rewards train the first 2; hold at most the last 4"):
        make(anchor={"weight": 1.0, "steps": 5})
    assert AnchorConfig().steps == 3
