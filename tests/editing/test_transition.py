"""One step of sampling against closed forms."""

import math

import pytest
import torch

from editing.transition import CPS, DDIM, ODE, DanceSDE, FlowSDE, rule_from, transition, velocity_gain

NOISY = [FlowSDE(0.7), DanceSDE(0.3), CPS(0.8), DDIM(1.0)]


def _state(seed=0, batch=3, dims=(5, 4)):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(batch, *dims, generator=generator) for _ in range(2))


def _flow(s: float):
    """A sample at noise level s with its exact x0 and eps."""
    x0, eps = _state()
    return (1 - s) * x0 + s * eps, x0, eps


@pytest.mark.parametrize("rule", [FlowSDE(0.0), DanceSDE(0.0), CPS(0.0), DDIM(0.0)])
def test_without_noise_every_flow_rule_is_the_euler_step(rule):
    x, x0, eps = _flow(0.7)
    expected = x + (0.4 - 0.7) * (eps - x0)
    step = transition(x, x0, eps, 0.7, 0.4, rule)
    assert torch.allclose(step.prev, expected, atol=1e-6)
    assert torch.allclose(step.prev, transition(x, x0, eps, 0.7, 0.4, ODE()).prev, atol=1e-6)
    assert (step.std == 0).all() and step.logp.isnan().all()


def test_flow_sde_formula():
    x, x0, eps = _flow(0.6)
    s, dt, v = 0.6, -0.2, eps - x0
    g2 = 0.7**2 * s / (1 - s)
    mean = x * (1 + g2 * dt / (2 * s)) + v * (1 + g2 * (1 - s) / (2 * s)) * dt
    step = transition(x, x0, eps, 0.6, 0.4, FlowSDE(0.7))
    assert torch.allclose(step.mean, mean, atol=1e-5)
    assert torch.allclose(step.std, torch.full_like(step.std, math.sqrt(g2 * 0.2)))


def test_flow_sde_is_dance_sde_with_its_own_strength():
    x, x0, eps = _flow(0.6)
    flow = transition(x, x0, eps, 0.6, 0.4, FlowSDE(0.7))
    dance = transition(x, x0, eps, 0.6, 0.4, DanceSDE(0.7 * math.sqrt(0.6 / 0.4)))
    assert torch.allclose(flow.mean, dance.mean, atol=1e-6) and torch.allclose(flow.std, dance.std)


def test_dance_sde_is_euler_plus_a_step_along_the_score():
    x, x0, eps = _flow(0.6)
    score = -(x - (1 - 0.6) * x0) / 0.6**2
    mean = x - 0.2 * (eps - x0) - 0.5 * 0.3**2 * score * -0.2
    assert torch.allclose(transition(x, x0, eps, 0.6, 0.4, DanceSDE(0.3)).mean, mean, atol=1e-6)


def test_flow_sde_at_the_first_step_takes_the_next_level():
    x, x0, eps = _flow(1.0)
    step = transition(x, x0, eps, 1.0, 0.9, FlowSDE(0.7))
    assert torch.allclose(step.std, torch.full_like(step.std, 0.7 * math.sqrt(1 / 0.1) * math.sqrt(0.1)))
    assert step.prev.isfinite().all()


def test_cps_keeps_each_levels_noise_and_ends_clean():
    x0, eps = torch.zeros(4, 40_000), torch.randn(4, 40_000, generator=torch.Generator().manual_seed(1))
    step = transition(0.8 * eps, x0, eps, 0.8, 0.5, CPS(0.8), generator=torch.Generator().manual_seed(2))
    assert step.prev.std().item() == pytest.approx(0.5, rel=0.02)
    x, x0, eps = _flow(0.3)
    assert torch.equal(transition(x, x0, eps, 0.3, 0.0, CPS(0.8)).prev, x0)


def _length(t: float) -> float:
    """Of (1 - t, t): a sample on the straight line is that of DDPM's coordinates times this."""
    return math.hypot(1 - t, t)


@pytest.mark.parametrize("t, t_next", [(0.9, 0.5), (0.4, 0.1)])
def test_ddim_with_eta_one_is_the_ddpm_posterior(t, t_next):
    x0, eps = _state()
    bar, bar_next = ((1 - t) / _length(t)) ** 2, ((1 - t_next) / _length(t_next)) ** 2
    y = math.sqrt(bar) * x0 + math.sqrt(1 - bar) * eps
    alpha = bar / bar_next
    beta = (1 - bar_next) / (1 - bar) * (1 - alpha)
    mean = (math.sqrt(bar_next) * (1 - alpha) * x0 + math.sqrt(alpha) * (1 - bar_next) * y) / (1 - bar)
    step = transition(y * _length(t), x0, eps, t, t_next, DDIM(1.0))
    assert torch.allclose(step.mean, mean * _length(t_next), atol=1e-5)
    assert torch.allclose(step.std, torch.full_like(step.std, math.sqrt(beta) * _length(t_next)), atol=1e-6)


def test_ddim_is_cps_with_the_same_noise():
    x, x0, eps = _flow(0.6)
    ddim = transition(x, x0, eps, 0.6, 0.4, DDIM(0.8), generator=torch.Generator().manual_seed(5))
    share = 0.8 * math.sqrt(1 - (0.4 * 0.4 / (0.6 * 0.6)) ** 2)
    cps = CPS(2 / math.pi * math.asin(share))
    same = transition(x, x0, eps, 0.6, 0.4, cps, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(ddim.prev, same.prev, atol=1e-6) and torch.allclose(ddim.std, same.std, atol=1e-6)


@pytest.mark.parametrize("rule", NOISY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replay_returns_the_logp_of_the_sample(rule, dtype):
    x, x0, eps = (tensor.to(dtype) for tensor in _flow(0.6))
    sampled = transition(x, x0, eps, 0.6, 0.4, rule, generator=torch.Generator().manual_seed(3))
    again = transition(x, x0, eps, 0.6, 0.4, rule, prev=sampled.prev)
    assert sampled.prev.dtype == dtype and sampled.mean.dtype == torch.float32
    assert torch.equal(sampled.logp, again.logp)


@pytest.mark.parametrize("rule", NOISY)
def test_logp_is_the_mean_of_a_gaussian_log_density(rule):
    x, x0, eps = _flow(0.6)
    step = transition(x, x0, eps, 0.6, 0.4, rule)
    density = torch.distributions.Normal(step.mean, step.std.expand_as(step.mean)).log_prob(step.prev)
    assert torch.allclose(step.logp, density.mean(dim=(1, 2)), atol=1e-6)


def test_replay_has_a_gradient_and_levels_may_differ_per_sample():
    x, x0, eps = _flow(0.6)
    x0.requires_grad_()
    levels, following = torch.tensor([0.6, 0.5, 0.4]), torch.tensor([0.5, 0.4, 0.2])
    step = transition(x, x0, eps, levels, following, FlowSDE(0.7), prev=x)
    step.logp.sum().backward()
    assert x0.grad.abs().sum() > 0
    alone = transition(x[1:2], x0[1:2], eps[1:2], 0.5, 0.4, FlowSDE(0.7), prev=x[1:2])
    assert torch.allclose(step.logp[1:2], alone.logp, atol=1e-6)


def test_one_generator_per_sample_makes_samples_independent_of_the_batch():
    x, x0, eps = _flow(0.6)
    together = transition(
        x, x0, eps, 0.6, 0.4, CPS(0.5), generator=[torch.Generator().manual_seed(i) for i in range(3)]
    )
    alone = transition(x[2:], x0[2:], eps[2:], 0.6, 0.4, CPS(0.5), generator=[torch.Generator().manual_seed(2)])
    assert torch.equal(together.prev[2:], alone.prev)
    with pytest.raises(ValueError, match="one per sample"):
        transition(x, x0, eps, 0.6, 0.4, CPS(0.5), generator=[torch.Generator()])


def test_rules_by_name():
    assert rule_from("cps", 0.5) == CPS(0.5) and rule_from("ode") == ODE() and rule_from("flow") == FlowSDE()
    with pytest.raises(ValueError, match="unknown sampling rule 'euler'; known: flow, dance"):
        rule_from("euler")
    with pytest.raises(ValueError, match="has no noise"):
        rule_from("ode", 0.3)


@pytest.mark.parametrize("rule", [ODE(), FlowSDE(0.7), DanceSDE(0.3), CPS(0.8), DDIM(1.0)])
def test_velocity_gain_is_the_derivative_of_the_mean(rule):
    x, v = torch.tensor([[[0.3]]]), torch.tensor([[[0.7]]])
    for t, t_next in ((1.0, 0.8), (0.6, 0.45), (0.2, 0.0)):

        def mean(velocity, t=t, t_next=t_next):
            return transition(x, x - t * velocity, x + (1 - t) * velocity, t, t_next, rule, prev=x).mean

        expected = -(mean(v + 1) - mean(v)) / 1.0
        assert float(velocity_gain(rule, t, t_next)) == pytest.approx(float(expected), abs=1e-5)
    assert float(velocity_gain(ODE(), 0.75, 0.5)) == pytest.approx(0.25)


def test_more_noise_than_a_level_has_is_refused():
    for name, rule in (("cps", CPS), ("ddim", DDIM)):
        with pytest.raises(ValueError, match=f"eta 1.2 with the rule '{name}': expected at most 1"):
            rule_from(name, 1.2)
        assert rule(1.0).eta == 1.0
    assert rule_from("flow", 1.5) == FlowSDE(1.5)  # published


def test_the_ode_draws_no_noise():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    transition(torch.ones(1, 2, 2), torch.zeros(1, 2, 2), torch.ones(1, 2, 2), 0.5, 0.25, ODE(), generator=generator)
    assert torch.equal(generator.get_state(), before)
