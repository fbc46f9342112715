"""NFT, RAFT, RWR and GRPO-Guard against closed forms."""

import math
from dataclasses import replace

import pytest
import torch

from editing.algorithms.algorithm import Denoise, Step
from editing.algorithms.grpo import GRPO
from editing.algorithms.grpo_guard import GRPOGuard
from editing.algorithms.nft import NFT, OldDecay
from editing.algorithms.pref_grpo import PrefGRPO
from editing.algorithms.weighted import RAFT, RWR
from editing.transition import FlowSDE, transition, velocity_gain


def denoise(advantages, weights=None, ranks=None, same=True, reference=None, t=0.5) -> Denoise:
    """Random predictions of as many samples; `same`: the old policy is the present one."""
    generator = torch.Generator().manual_seed(0)
    count = len(advantages)
    x0, predicted, old = (torch.randn(count, 4, 3, generator=generator) for _ in range(3))
    return Denoise(
        x0=x0,
        predicted=predicted.requires_grad_(),
        old=predicted.detach().clone() if same else old,
        reference=reference,
        t=torch.full((count, 1, 1), t),
        advantages=torch.tensor(advantages),
        weights=torch.ones(count) if weights is None else torch.tensor(weights),
        ranks=torch.zeros(count, dtype=torch.long) if ranks is None else torch.tensor(ranks),
    )


def gradient(algorithm, given) -> torch.Tensor:
    (found,) = torch.autograd.grad(algorithm.loss(given).total, given.predicted)
    return found


def adaptive_gradient(given: Denoise) -> torch.Tensor:
    """Of |present - x0|² / stop(mean |present - x0|), means over the 12 dimensions."""
    difference = given.predicted.detach() - given.x0
    return 2 * difference / 12 / difference.abs().mean((1, 2), keepdim=True)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nft_has_no_gradient_where_r_is_one_half_and_old_is_the_present_policy(beta):
    given = denoise([0.0, 0.0])
    assert gradient(NFT(beta=beta, kl=0), given).abs().max() < 1e-6


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_nft_on_policy_is_the_advantage_times_the_denoising_gradient(beta):
    given = denoise([2.0, -1.0, 5.0, 9.0])
    expected = torch.tensor([2.0, -1.0, 5.0, 5.0]).view(-1, 1, 1) * adaptive_gradient(given)  # r stops at 1
    assert torch.allclose(gradient(NFT(beta=beta, kl=0), given), expected, atol=1e-5)


def test_nft_loss_off_policy_is_the_mixture_of_velocities():
    given, t, beta, limit = denoise([3.0], same=False, t=0.4), 0.4, 0.7, 4.0
    noisy = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(1))
    v, v_old = (noisy - given.predicted.detach()) / t, (noisy - given.old) / t
    good = noisy - t * (beta * v + (1 - beta) * v_old)
    bad = noisy - t * ((1 + beta) * v_old - beta * v)
    r = 3.0 / limit / 2 + 0.5
    error = [(guess - given.x0).square().mean() / (guess - given.x0).abs().mean() for guess in (good, bad)]
    expected = limit / beta * (r * error[0] + (1 - r) * error[1])
    assert float(NFT(beta=beta, limit=limit, kl=0).loss(given).total.detach()) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_nft_holds_a_neutral_sample_once_the_old_policy_lags_so_only_weight_zero_leaves_one_out():
    neutral = denoise([0.0, 0.0], same=False)
    assert gradient(NFT(kl=0), neutral).abs().max() > 1e-2
    missing = denoise([0.0, 4.0], weights=[1.0, 0.0], same=False)
    found = gradient(NFT(kl=1e-2), missing)
    assert found[0].abs().max() > 0 and torch.equal(found[1], torch.zeros(4, 3))


def test_the_reference_term_has_a_gradient_in_velocity_or_noise():
    velocity = denoise([0.0, 0.0], reference=torch.zeros(2, 4, 3), t=0.25)
    algorithm = NFT(kl=0.3)
    for given, scale in ((velocity, 4.0), (replace(velocity, error="noise"), 3.0)):
        expected = 0.3 * 2 * scale**2 * given.predicted.detach() / 12
        assert torch.allclose(gradient(algorithm, given), expected, atol=1e-5)
    kept = denoise([-1.0, -1.0], reference=torch.zeros(2, 4, 3), t=0.25)
    expected = 0.3 * 2 * 16 * kept.predicted.detach() / 12
    assert torch.allclose(gradient(RAFT(kl=0.3), kept), expected, atol=1e-5)
    assert NFT().needs.reference and not NFT(kl=0).needs.reference and RWR(kl=1.0).needs.reference


def test_the_published_schedules_of_the_old_policy():
    on_policy, slow, late = OldDecay(slope=0), OldDecay(), OldDecay(slope=0.0075, start=75, limit=0.999)
    assert [on_policy(n) for n in (0, 10, 10_000)] == [0, 0, 0]
    assert [slow(n) for n in (0, 100, 600)] == pytest.approx([0, 0.1, 0.5])
    assert [late(n) for n in (0, 75, 175, 1000)] == pytest.approx([0, 0, 0.75, 0.999])


def test_raft_imitates_the_best_that_are_better_than_their_group():
    # a group of four with a tie for the second place, and one in which all are alike
    given = denoise([1.5, 0.2, 0.2, -1.9, 0.0, 0.0], ranks=[0, 1, 1, 3, 0, 0])
    plain = 2 * (given.predicted.detach() - given.x0) / 12 / 0.25
    for best, chosen in ((1, [1, 0, 0, 0, 0, 0]), (2, [1, 1, 1, 0, 0, 0])):
        expected = torch.tensor(chosen).view(-1, 1, 1) * plain
        assert torch.allclose(gradient(RAFT(best=best), given), expected, atol=1e-5)
    assert RAFT(best=2).loss(given).parts["imitated"] == 3


def test_rwr_weighs_by_the_exponential_of_the_advantage_up_to_its_limit():
    given = denoise([0.0, 1.0, -2.0, 5.0, 1.0], weights=[1.0, 1.0, 1.0, 1.0, 0.0])
    expected = torch.tensor([1.0, math.exp(2), math.exp(-4), 20.0, 0.0])
    plain = 2 * (given.predicted.detach() - given.x0) / 12 / 0.25
    found = gradient(RWR(temperature=0.5), given)
    assert torch.allclose(found, expected.view(-1, 1, 1) * plain, rtol=1e-4, atol=1e-6)


def noise_of(step: Step) -> torch.Tensor:
    """z of the samples that `replayed` gives: the fifth draw of its generator."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(step.mean.shape, generator=generator) for _ in range(5)][-1]


def replayed(shift: float, t: float = 0.8, t_next: float = 0.6, count: int = 8) -> Step:
    """Steps whose x0 was moved by `shift` times a random direction since they were sampled."""
    generator = torch.Generator().manual_seed(1)
    x, x0, eps, direction = (torch.randn(count, 6, 6, generator=generator) for _ in range(4))
    rule = FlowSDE(0.7)
    sampled = transition(x, x0, eps, t, t_next, rule, generator=generator)
    moved = (x0 + shift * direction).requires_grad_()
    again = transition(x, moved, eps, t, t_next, rule, prev=sampled.prev)
    again.mean.retain_grad()
    return Step(
        logp=again.logp,
        old_logp=sampled.logp,
        mean=again.mean,
        std=again.std,
        reference_mean=None,
        advantages=torch.ones(count),
        weights=torch.ones(count),
        old_mean=sampled.mean,
        gain=float(velocity_gain(rule, t, t_next)),
    )


def test_guard_takes_the_bias_out_of_the_log_ratio():
    step = replayed(0.5, count=3)
    d, std = step.mean.detach() - step.old_mean, float(step.std[0].squeeze())
    left = (noise_of(step) * d).mean(
        (1, 2)
    )  # mean 0, whatever std is; the plain one is less by |d|² / 2 std² and / std
    plain = left / std - (d.square() / 2 / std**2).mean((1, 2))
    assert torch.allclose(step.logp - step.old_logp, plain, atol=1e-5) and plain.mean() < left.mean()
    loss = GRPOGuard(clip=0.9).loss(step).total
    assert float(loss.detach()) == pytest.approx(-float(left.exp().sum()) / step.gain, rel=1e-5)


def test_guard_on_policy_gradient_is_minus_advantage_times_z_over_the_gain():
    step = replayed(0.0, count=3)
    step.advantages.copy_(torch.tensor([1.0, -0.5, 2.0]))
    GRPOGuard().loss(step).total.backward()
    expected = -step.advantages.view(-1, 1, 1) * noise_of(step) / 36 / step.gain
    assert torch.allclose(step.mean.grad, expected, atol=1e-4)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match="old policy's prediction is missing"):
        given = denoise([1.0])
        NFT().loss(Denoise(**{**vars(given), "old": None}))
    with pytest.raises(ValueError, match="policy that sampled are missing"):
        GRPOGuard().loss(Step(**{**vars(replayed(0.0, count=1)), "old_mean": None}))


def test_pref_grpo_is_grpo_on_another_score():
    step = replayed(0.1, count=8)
    assert PrefGRPO(clip=0.01).loss(step).total == GRPO(clip=0.01).loss(step).total
    assert PrefGRPO(rivals=2).needs.pairs.rivals == 2 and GRPO().needs.pairs is None
