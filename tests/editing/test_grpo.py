"""The GRPO loss and its gradient against closed forms."""

import math

import pytest
import torch

from editing.algorithms.algorithm import Step
from editing.algorithms.grpo import GRPO
from editing.transition import FlowSDE, transition


def step(logp, old, advantages, weights=None, mean=None, std=1.0, reference=None) -> Step:
    count = len(logp)
    return Step(
        logp=logp,
        old_logp=old,
        mean=torch.zeros(count, 2, 3) if mean is None else mean,
        std=torch.full((count, 1, 1), std),
        reference_mean=reference,
        advantages=torch.as_tensor(advantages),
        weights=torch.ones(count) if weights is None else torch.as_tensor(weights),
    )


def test_gradient_on_policy_is_minus_advantage():
    logp = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    GRPO(clip=0.1).loss(step(logp, logp.detach(), [1.0, -2.0, 0.5])).total.backward()
    assert logp.grad.tolist() == pytest.approx([-1.0, 2.0, -0.5])


def test_clip_stops_what_moved_far_enough():
    # moved by +0.3 / -0.3 with c = 0.1: the gradient is 0 where the advantage pushes further, else -A ratio
    old = torch.zeros(4)
    logp = torch.tensor([0.3, 0.3, -0.3, -0.3], requires_grad=True)
    loss = GRPO(clip=0.1).loss(step(logp, old, [1.0, -1.0, 1.0, -1.0]))
    loss.total.backward()
    up, down = math.exp(0.3), math.exp(-0.3)
    assert logp.grad.tolist() == pytest.approx([0, up, -down, 0])
    assert loss.total.item() == pytest.approx(-1.1 + up - down + 0.9)
    assert loss.parts["clip_fraction"] == 2


def test_weight_zero_means_no_gradient():
    logp = torch.tensor([0.0, 0.0], requires_grad=True)
    GRPO().loss(step(logp, torch.zeros(2), [1.0, 1.0], weights=[1.0, 0.0])).total.backward()
    assert logp.grad.tolist() == [-1, 0]


def test_kl_is_that_of_two_gaussians_and_has_a_gradient():
    mean = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = torch.zeros(5, 2, 3)
    zero = torch.zeros(5)
    loss = GRPO(kl=0.3).loss(step(zero, zero, zero, mean=mean, std=0.5, reference=reference))
    gaussian = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(gaussian(mean, 0.5), gaussian(reference, 0.5)).mean((1, 2)).sum()
    assert loss.total.item() == pytest.approx(0.3 * float(expected), rel=1e-5)
    loss.total.backward()
    assert torch.allclose(mean.grad, 0.3 * mean.detach() / 0.25 / 6)
    assert GRPO(kl=0.3).needs.reference and not GRPO().needs.reference


def test_policy_gradient_of_a_gaussian_step_in_closed_form():
    """For one step x' = mean + std z the gradient of the loss with respect to the mean is -A z / (std D)."""
    generator = torch.Generator().manual_seed(1)
    x, x0, eps = (torch.randn(3, 4, 5, generator=generator) for _ in range(3))
    sampled = transition(x, x0, eps, 0.8, 0.6, FlowSDE(0.7), generator=generator)
    again = transition(x, x0.requires_grad_(), eps, 0.8, 0.6, FlowSDE(0.7), prev=sampled.prev)
    again.mean.retain_grad()
    advantages = torch.tensor([1.0, -0.5, 2.0])
    GRPO().loss(step(again.logp, sampled.logp, advantages)).total.backward()
    z = (sampled.prev - sampled.mean) / sampled.std
    expected = -advantages.view(-1, 1, 1) * z / sampled.std / 20
    assert torch.allclose(again.mean.grad, expected, atol=1e-5)
    assert x0.grad is not None and x0.grad.abs().sum() > 0


@pytest.mark.parametrize(("t", "t_next"), [(0.9, 0.8), (0.6, 0.5), (0.5, 0.25)])
def test_a_published_beta_becomes_kl_times_the_step(t, t_next):
    """Flow-GRPO's term is beta * mean (mean - mean_ref)² / (2 g²), with g = eta sqrt(t / (1 - t)) and no dt."""
    generator = torch.Generator().manual_seed(2)
    x, x0, eps, shift = (torch.randn(3, 4, 5, generator=generator) for _ in range(4))
    beta, g = 0.04, 0.7 * math.sqrt(t / (1 - t))
    moved = transition(x, x0, eps, t, t_next, FlowSDE(0.7), prev=x)
    reference = moved.mean - 0.01 * shift
    published = beta * (moved.mean - reference).square().mean((1, 2)) / (2 * g**2)
    zero = torch.zeros(3)
    ours = GRPO(kl=beta * (t - t_next)).loss(
        step(zero, zero, zero, mean=moved.mean, std=float(moved.std[0]), reference=reference)
    )
    assert float(ours.total) == pytest.approx(float(published.sum()), rel=1e-4)
