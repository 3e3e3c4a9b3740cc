"""What bounds the loss, and how many digits it keeps: the method's 3.f and rows 24 and 25."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from loss_cases import F64, TAU, draw, equal, options

from vrpo.control import control_statistics
from vrpo.diagnostics import margin_summary, runaway_check
from vrpo.losses import LOSSES, pair_loss, vrpo_loss


def difference(m, loss):
    """Return phi(m) - phi(-m), the method's table 3.0, piece by piece."""
    if loss == "sigmoid":
        return -m
    if loss == "ipo":
        return -2 * m / TAU
    if abs(m) <= (1.0 if loss == "hinge" else 0.5):
        return -2 * m
    if loss == "hinge":
        return -(1 + m) if m > 0 else 1 - m
    return math.copysign(min(0.5 + abs(m), 1.5), -m)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(margin=st.floats(-20, 20))
def test_the_label_multiplies_the_closed_form_of_the_difference(loss, margin):
    m = torch.tensor([margin], dtype=F64)
    one, zero = (
        pair_loss(m, torch.tensor([q], dtype=F64), **options(loss)).item() for q in (1.0, 0.0)
    )
    assert one - zero == pytest.approx(difference(margin, loss), abs=1e-11)


# The labelled term is l(z) - lambda l(p) >= -lambda max l(p) for |m| <= c: the hinge's l(p) reaches
# 1 + c, IPO's (c + 1 / 2 tau)^2, the ramp's 1.5. The sigmoid does better: with z = 1 it is
# (1 - lambda) softplus(-m) - lambda (1 - p) m >= -lambda c, the bound of row 24, its alone.
BOUNDS = {
    "sigmoid": lambda c: c,
    "ipo": lambda c: (c + 1 / (2 * TAU)) ** 2,
    "hinge": lambda c: 1 + c,
    "ramp": lambda c: 1.5,
}


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    margin=st.floats(-1e4, 1e4),
    label=st.sampled_from([0.0, 1.0]),
    prediction=st.floats(0, 1),
    weight=st.floats(0, 1),
    clip=st.floats(0.5, 20),
)
def test_a_margin_clip_bounds_the_labelled_term(loss, margin, label, prediction, weight, clip):
    # two samples of equal reward: the reference term is the constant l(1/2; 0), taken off again
    rewards = torch.tensor([[margin, 0.0, 0.0, 0.0]], dtype=F64)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    preference[0, 0, 1], preference[0, 1, 0] = prediction, 1 - prediction
    found = vrpo_loss(
        rewards,
        preference,
        torch.tensor([label], dtype=F64),
        control_weight=weight,
        margin_clip=clip,
        **options(loss, pool=False),
    )
    constant = pair_loss(torch.zeros(1, dtype=F64), torch.full((1,), 0.5), **options(loss))
    assert (found - weight * constant).item() >= -weight * BOUNDS[loss](clip) - 1e-9


def descend(loss, weight, *, steps, clip=None):
    """Gradient descent, rate 1, on one labelled pair (z 1, p 0.8) and one sampled pair (p 0.6),
    whose four responses occur nowhere else: the margins and the loss at the end."""
    theta = torch.zeros(1, 4, dtype=F64, requires_grad=True)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    preference[0, 0, 1], preference[0, 1, 0] = 0.8, 0.2
    preference[0, 2, 3], preference[0, 3, 2] = 0.6, 0.4
    label = torch.ones(1, dtype=F64)
    shared = options(loss, pool=False, margin_clip=clip, control_weight=weight)
    rate = 0.1 if loss == "ipo" else 1.0
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(
            vrpo_loss(theta, preference, label, **shared).sum(), theta
        )
        theta = (theta - rate * gradient).detach().requires_grad_()
    theta = theta.detach()
    return theta, vrpo_loss(theta, preference, label, **shared)


def test_the_sigmoid_loss_runs_away_in_a_straight_line_and_is_flagged():
    theta, loss = descend("sigmoid", 1.0, steps=500)
    margin = theta[:, 0] - theta[:, 1]
    # the slope stays -(1 - p) = -0.2, for both rewards: 2 * 0.2 * 500
    assert margin.item() == pytest.approx(200, abs=1e-9)
    # -0.2 * 200, and the sampled pair at its best: the entropy of 0.6
    entropy = -0.6 * math.log(0.6) - 0.4 * math.log(0.4)
    assert loss.item() == pytest.approx(-40 + entropy, abs=1e-6)
    assert runaway_check(loss, margin).alarm
    summary = margin_summary(
        margin,
        torch.ones(1, dtype=F64),
        loss,
        preference_N=torch.full((1,), 0.8, dtype=F64),
        control_weight=1.0,
    )
    assert summary.alarm
    assert summary.linear_share > 0.9


def test_any_weight_above_zero_runs_away_and_dpo_does_not():
    half, loss = descend("sigmoid", 0.5, steps=800)
    margin = half[:, 0] - half[:, 1]
    # the slope tends to -lambda (1 - p) = -0.1
    assert margin.item() > 2 * 0.1 * 800
    assert loss.item() < -12
    assert runaway_check(loss, margin).alarm
    dpo, loss = descend("sigmoid", 0.0, steps=800)
    margin = dpo[:, 0] - dpo[:, 1]
    assert 0 < loss.item() < 0.001
    assert margin.item() < 10
    assert not runaway_check(loss, margin).alarm


def test_ipo_below_weight_one_and_ramp_converge_and_ipo_at_one_does_not():
    theta, _ = descend("ipo", 0.9, steps=600)
    # 2 (1 - lambda) m = [(2z - 1) - lambda (2p - 1)] / tau: 0.2 m = 0.46 / 0.5
    assert (theta[0, 0] - theta[0, 1]).item() == pytest.approx(4.6, abs=1e-6)
    theta, loss = descend("ipo", 1.0, steps=600)
    # slope -(0.4 / 0.5) = -0.8 for ever: 2 * 0.1 * 0.8 * 600
    assert (theta[0, 0] - theta[0, 1]).item() == pytest.approx(96, abs=1e-6)
    assert loss.item() < -70
    theta, loss = descend("ramp", 1.0, steps=300)
    # the ramp stops at a margin of 1, at most one step of 2 * 0.4 beyond
    assert 1 <= (theta[0, 0] - theta[0, 1]).item() < 1.8
    assert loss.item() > -1.5


def test_a_clipped_run_stops_at_the_clip():
    theta, loss = descend("sigmoid", 1.0, steps=500, clip=10.0)
    margin = theta[:, 0] - theta[:, 1]
    assert 10 <= margin.item() < 10.5
    assert loss.item() > -10
    assert torch.isfinite(loss).all()
    assert runaway_check(loss, margin, margin_clip=10.0).alarm  # it does sit at the clip


@pytest.mark.parametrize("size", [0.5, 5.0, 90.0])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_low_precision_rewards_are_computed_in_float32(loss, pool, size):
    rewards, preference, label = draw(scale=size, batch=64)
    low = rewards.bfloat16()
    direction = draw(seed=1, batch=64)[0]
    # IPO is a square: its digits are those of m^2
    spread = low.double().amax(1) - low.double().amin(1)
    bound = 1e-5 * (spread.square() if loss == "ipo" else spread).clamp(min=1)
    shared = options(loss, pool=pool)
    found = vrpo_loss(low, preference, label, control_weight=0.5, **shared)
    exact = vrpo_loss(low.double(), preference, label, control_weight=0.5, **shared)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() < bound).all()
    for low_sum, exact_sum in zip(
        control_statistics(low, direction, preference, label, **shared),
        control_statistics(low.double(), direction, preference, label, **shared),
        strict=True,
    ):
        assert low_sum.dtype == torch.float32
        assert ((low_sum - exact_sum).abs() < bound * direction.abs().amax(1) * 10).all()


def test_four_terms_in_low_precision_would_lose_the_residual():
    # m = 90, z = 1, p = 0.99: the labelled term is -(1 - p) m = -0.9
    margin, p = torch.tensor([90.0]), torch.tensor([0.99])
    rewards = torch.tensor([[90.0, 0.0, 0.0, 0.0]]).bfloat16()
    preference = torch.full((1, 4, 4), 0.5)
    preference[0, 0, 1], preference[0, 1, 0] = 0.99, 0.01
    found = vrpo_loss(rewards, preference, torch.ones(1), control_weight=1.0, pool=False)
    assert found.item() == pytest.approx(-0.9 + math.log(2), abs=1e-5)
    low, g = margin.bfloat16(), p.bfloat16()
    l1 = torch.nn.functional.softplus(-low)
    l2 = torch.nn.functional.softplus(low)
    assert abs((l1 - l1 * g - l2 * (1 - g)).item() + 0.9) > 0.1


@pytest.mark.parametrize("margin", [-1e4, -40.0, 0.0, 40.0, 1e4])
def test_large_margins_neither_overflow_nor_lose_their_slope(margin):
    rewards = torch.tensor([[margin, 0.0, 0.0, margin]], dtype=F64, requires_grad=True)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    loss = vrpo_loss(rewards, preference, torch.ones(1, dtype=F64), control_weight=1.0, pool=False)
    (gradient,) = torch.autograd.grad(loss.sum(), rewards)
    assert torch.isfinite(loss).all()
    # labelled: -(z - p) = -1/2 whatever the margin; sampled: sigmoid(m*) - 1/2 with m* = -margin
    slope = 1 / (1 + math.exp(min(margin, 700))) - 0.5
    equal(gradient[0], torch.tensor([-0.5, 0.5, slope, -slope], dtype=F64))
