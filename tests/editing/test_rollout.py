"""Trajectories: what is kept, and that a replay finds it again."""

import numpy as np
import pytest
import torch
from PIL import Image

from editing.rollout import replay, rollout, rules
from editing.transition import CPS, ODE, FlowSDE


@pytest.fixture(scope="module")
def start(random_editor):
    source = Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8))
    condition = random_editor.collate(random_editor.encode([source], ["make the circle blue"])).repeat(3)
    x = torch.stack([random_editor.prior("g", member, condition.latent_shape) for member in range(3)])
    return condition, x, random_editor.schedule(4, condition.latent_shape)


def _generators():
    return [torch.Generator().manual_seed(member) for member in range(3)]


def test_keeps_the_window_and_replays_its_logp(random_editor, start):
    condition, x, sigmas = start
    per_step = rules(CPS(0.6), steps=4, window=(0, 1))
    assert per_step == (CPS(0.6), CPS(0.6), ODE(), ODE())
    trajectory = rollout(random_editor, condition, x, sigmas, per_step, window=(0, 1), generator=_generators())
    assert trajectory.latents.shape == (2, 3, *condition.latent_shape) and trajectory.logp.shape == (2, 3)
    assert torch.equal(trajectory.latents[0], x) and torch.equal(trajectory.prev[0], trajectory.latents[1])
    for index in range(2):
        step = replay(random_editor, condition, trajectory, index)
        assert torch.allclose(step.logp, trajectory.logp[index], atol=1e-6)
        assert step.logp.requires_grad


def test_selected_samples_replay_alone(random_editor, start):
    condition, x, sigmas = start
    trajectory = rollout(random_editor, condition, x, sigmas, CPS(0.6), window=(1,), generator=_generators())
    step = replay(random_editor, condition.select([2]), trajectory.select([2]), 0)
    assert torch.allclose(step.logp, trajectory.logp[0, 2:], atol=1e-5)


def test_same_seeds_give_the_same_samples(random_editor, start):
    condition, x, sigmas = start
    first = rollout(random_editor, condition, x, sigmas, FlowSDE(0.5), generator=_generators())
    again = rollout(random_editor, condition, x, sigmas, FlowSDE(0.5), generator=_generators())
    assert torch.equal(first.final, again.final) and first.window == ()
    assert not first.final.requires_grad


def test_refuses_what_cannot_be_trained_on(random_editor, start):
    condition, x, sigmas = start
    with pytest.raises(ValueError, match="step 3 of the window has no noise under CPS"):
        rollout(random_editor, condition, x, sigmas, CPS(0.6), window=(3,))
    with pytest.raises(ValueError, match="step 4 of the window is not one of the steps"):
        rollout(random_editor, condition, x, sigmas, CPS(0.6), window=(4,))
    with pytest.raises(ValueError, match="2 rules for 4 steps"):
        rollout(random_editor, condition, x, sigmas, [ODE(), ODE()])
    with pytest.raises(ValueError, match="repeat the condition per member"):
        rollout(random_editor, condition.select([0]), x, sigmas, ODE())
