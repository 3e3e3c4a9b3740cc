"""The loss over pairs against its definition, numbers worked out by hand, and its symmetries."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vrpo.losses import (
    LOSSES,
    PAPER,
    REFERENCE_CODE,
    debiased_label,
    pair_slope,
    smoothed_label,
    vrpo_loss,
    vrpo_terms,
)

F64 = torch.float64
TAU = {"ipo": 0.5}


def draw(*, batch=6, samples=3, seed=0, scale=1.5):
    g = torch.Generator().manual_seed(seed)
    columns = 2 + samples
    rewards = scale * torch.randn(batch, columns, generator=g, dtype=F64)
    upper = torch.rand(batch, columns, columns, generator=g, dtype=F64).triu(1)
    preference = upper + (1 - upper).transpose(1, 2).tril(-1)
    preference = preference + 0.5 * torch.eye(columns, dtype=F64)
    label = (torch.rand(batch, generator=g, dtype=F64) < 0.5).to(F64)
    return rewards, preference, label


def phi(m, loss):
    if loss == "sigmoid":
        return torch.log1p(torch.exp(-m.abs())) + torch.relu(-m)
    if loss == "ipo":  # (m - 1 / (2 tau))^2
        return (m - 1 / (2 * 0.5)) ** 2
    if loss == "hinge":
        return torch.relu(1 - m)
    return torch.relu(1 - m) - torch.relu(-0.5 - m)


def naive(rewards, preference, label, *, weight, pool, loss):
    """The definition: four pair losses and a double loop."""

    def expected(m, q):
        return q * phi(m, loss) + (1 - q) * phi(-m, loss)

    m, p = rewards[:, 0] - rewards[:, 1], preference[:, 0, 1]
    columns = range(0 if pool else 2, rewards.shape[1])
    pairs = list(itertools.combinations(columns, 2))
    reference = sum(
        expected(rewards[:, j] - rewards[:, k], preference[:, j, k]) for j, k in pairs
    ) / len(pairs)
    return expected(m, label) - weight * expected(m, p) + weight * reference


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("pool", [True, False])
def test_the_closed_form_equals_the_four_terms_in_value_and_gradient(loss, weight, pool):
    rewards, preference, label = draw()
    one, two = rewards.clone().requires_grad_(), rewards.clone().requires_grad_()
    closed = vrpo_loss(
        one, preference, label, control_weight=weight, pool=pool, loss=loss, tau=TAU.get(loss)
    )
    defined = naive(two, preference, label, weight=weight, pool=pool, loss=loss)
    torch.testing.assert_close(closed, defined, rtol=0, atol=3e-14)
    (g1,) = torch.autograd.grad(closed.sum(), one)
    (g2,) = torch.autograd.grad(defined.sum(), two)
    torch.testing.assert_close(g1, g2, rtol=0, atol=3e-14)


# m = 0.7, z = 1, p = 0.8, m* = -0.3, p* = 0.4; for the hinge and lambda = 1:
# 0.3 - (0.8 * 0.3 + 0.2 * 1.7) + (0.4 * 1.3 + 0.6 * 0.7) = 0.3 - 0.58 + 0.94 = 0.66
@pytest.mark.parametrize(
    ("loss", "values"),
    [
        ("sigmoid", (0.4031860489, 0.4687706467, 0.5343552445)),
        ("ipo", (0.09, 0.25, 0.41)),
        ("hinge", (0.30, 0.48, 0.66)),
        ("ramp", (0.30, 0.50, 0.70)),
    ],
)
def test_golden_values_of_one_labelled_and_one_sampled_pair(loss, values):
    rewards = torch.tensor([[0.7, 0.0, -0.3, 0.0]], dtype=F64)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    preference[0, 0, 1], preference[0, 1, 0] = 0.8, 0.2
    preference[0, 2, 3], preference[0, 3, 2] = 0.4, 0.6
    for weight, value in zip((0.0, 0.5, 1.0), values, strict=True):
        found = vrpo_loss(
            rewards,
            preference,
            torch.ones(1, dtype=F64),
            control_weight=weight,
            pool=False,
            loss=loss,
            tau=TAU.get(loss),
        )
        assert found.item() == pytest.approx(value, abs=1e-10)


def test_golden_value_and_gradient_of_all_pairs_of_three_samples():
    # label and p of the labelled pair 0 and margin 0: the labelled terms cancel
    rewards = torch.tensor([[0.0, 0.0, 0.5, -0.2, 1.1]], dtype=F64, requires_grad=True)
    preference = torch.full((1, 5, 5), 0.5, dtype=F64)
    for j, k, p in ((2, 3, 0.7), (2, 4, 0.35), (3, 4, 0.2)):
        preference[0, j, k], preference[0, k, j] = p, 1 - p
    terms = vrpo_terms(rewards, preference, torch.full((1,), 0.5, dtype=F64), pool=False)
    assert terms.resampled.item() == pytest.approx(0.587227484401, abs=1e-12)
    (grad,) = torch.autograd.grad(terms.resampled.sum(), rewards)
    expected = [0, 0, -0.009156178019, 0.015325748263, -0.006169570244]
    torch.testing.assert_close(grad[0], torch.tensor(expected, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(2, 5),
    weight=st.floats(0, 1),
    pool=st.booleans(),
)
def test_swapping_the_labelled_pair_or_permuting_the_samples_changes_nothing(
    loss, seed, samples, weight, pool
):
    rewards, preference, label = draw(seed=seed, samples=samples)
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed)) + 2
    order = torch.cat([torch.tensor([1, 0]), order])
    options = dict(control_weight=weight, pool=pool, loss=loss, tau=TAU.get(loss))
    before = vrpo_loss(rewards, preference, label, **options)
    after = vrpo_loss(rewards[:, order], preference[:, order][:, :, order], 1 - label, **options)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pool", [True, False])
def test_weight_zero_is_dpo(pool):
    rewards, preference, label = draw()
    margin = rewards[:, 0] - rewards[:, 1]
    dpo = torch.where(label == 1, -F.logsigmoid(margin), -F.logsigmoid(-margin))
    found = vrpo_loss(rewards, preference, label, control_weight=0.0, pool=pool)
    torch.testing.assert_close(found, dpo, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pool", [True, False])
def test_without_samples_every_weight_is_dpo(loss, pool):
    rewards, preference, label = draw(samples=0)
    options = dict(pool=pool, loss=loss, tau=TAU.get(loss))
    dpo = vrpo_loss(rewards, preference, label, control_weight=0.0, **options)
    found = vrpo_loss(rewards, preference, label, control_weight=0.7, **options)
    torch.testing.assert_close(found, dpo, rtol=0, atol=1e-12)


def test_a_sampled_pair_equal_to_the_labelled_pair_gives_dpo():
    rewards, preference, label = draw(samples=0)
    doubled = rewards[:, [0, 1, 0, 1]]
    preferences = preference[:, [0, 1, 0, 1]][:, :, [0, 1, 0, 1]]
    dpo = vrpo_loss(rewards, preference, label, control_weight=0.0)
    found = vrpo_loss(doubled, preferences, label, **PAPER)
    torch.testing.assert_close(found, dpo, rtol=0, atol=1e-12)


def test_a_constant_preference_model_is_not_dpo():
    rewards, preference, label = draw()
    coin = torch.full_like(preference, 0.5)
    dpo = vrpo_loss(rewards, coin, label, control_weight=0.0)
    assert (vrpo_loss(rewards, coin, label, control_weight=1.0) - dpo).abs().min() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_adding_a_constant_to_a_prompts_rewards_has_no_gradient(loss):
    rewards, preference, label = draw()
    rewards.requires_grad_()
    total = vrpo_loss(
        rewards, preference, label, control_weight=0.6, loss=loss, tau=TAU.get(loss)
    ).sum()
    (grad,) = torch.autograd.grad(total, rewards)
    torch.testing.assert_close(grad.sum(1), torch.zeros(6, dtype=F64), rtol=0, atol=1e-12)


def test_the_policys_own_preference_leaves_the_gradient_of_dpo():
    rewards, _, label = draw()
    own = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    rewards.requires_grad_()
    (dpo,) = torch.autograd.grad(vrpo_loss(rewards, own, label, control_weight=0.0).sum(), rewards)
    (corrected,) = torch.autograd.grad(
        vrpo_loss(rewards, own, label, control_weight=1.0).sum(), rewards
    )
    torch.testing.assert_close(dpo, corrected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_preference_model_that_equals_the_label_leaves_the_sampled_pairs_alone(loss):
    rewards, preference, label = draw()
    preference[:, 0, 1], preference[:, 1, 0] = label, 1 - label
    rewards.requires_grad_()
    total = vrpo_loss(
        rewards, preference, label, control_weight=1.0, pool=False, loss=loss, tau=TAU.get(loss)
    ).sum()
    (grad,) = torch.autograd.grad(total, rewards)
    assert torch.equal(grad[:, :2], torch.zeros(6, 2, dtype=F64))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_linear_in_the_label(loss):
    rewards, preference, _ = draw()

    def at(z):
        label = z if isinstance(z, torch.Tensor) else torch.full((6,), float(z), dtype=F64)
        return vrpo_loss(
            rewards, preference, label, control_weight=0.6, loss=loss, tau=TAU.get(loss)
        )

    torch.testing.assert_close(at(0.3), 0.3 * at(1) + 0.7 * at(0), rtol=0, atol=1e-12)
    ones = torch.ones(6, dtype=F64)
    smooth = at(smoothed_label(ones, flip_rate=0.1))
    torch.testing.assert_close(smooth, 0.9 * at(1) + 0.1 * at(0), rtol=0, atol=1e-12)
    # rDPO, arXiv 2403.00409: ((1 - e) l(1) - e l(0)) / (1 - 2 e)
    robust = at(debiased_label(ones, flip_rate=0.1))
    torch.testing.assert_close(robust, (0.9 * at(1) - 0.1 * at(0)) / 0.8, rtol=0, atol=1e-12)


def test_equal_samples_add_log_two_and_no_gradient():
    rewards = torch.tensor([[0.4, -0.1, 0.9, 0.9]], dtype=F64, requires_grad=True)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    terms = vrpo_terms(rewards, preference, torch.ones(1, dtype=F64), pool=False)
    assert terms.resampled.item() == pytest.approx(math.log(2), abs=1e-15)
    (grad,) = torch.autograd.grad(terms.resampled.sum(), rewards)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_a_margin_clip_bounds_the_loss_that_is_otherwise_unbounded():
    # z = 1, p = 0.5, no reference gradient: the slope is -(1 - p), down to minus infinity
    rewards = torch.tensor([[1e4, 0.0, 0.0, 0.0]], dtype=F64)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    label = torch.ones(1, dtype=F64)
    options = dict(control_weight=1.0, pool=False)
    assert vrpo_loss(rewards, preference, label, **options).item() < -4000
    clipped = vrpo_loss(rewards, preference, label, margin_clip=10.0, **options)
    assert clipped.item() == pytest.approx(-5 + math.log(2), abs=1e-4)
    assert clipped.item() >= -10


@pytest.mark.parametrize("size", [0.5, 90.0])
def test_low_precision_rewards_are_computed_in_float32(size):
    rewards, preference, label = draw(scale=size)
    low = rewards.bfloat16()
    found = vrpo_loss(low, preference, label, control_weight=0.5)
    exact = vrpo_loss(low.double(), preference, label, control_weight=0.5)
    assert found.dtype == torch.float32
    assert ((found - exact).abs() < 1e-5 * max(1.0, 4 * size)).all()


def test_the_reference_code_preset_is_the_authors_formula():
    rewards, preference, label = draw(samples=2, batch=64)
    label = torch.ones_like(label)  # their first column is the chosen one
    h, g = rewards[:, 0] - rewards[:, 1], preference[:, 0, 1]
    h_ref, g_ref = rewards[:, 2] - rewards[:, 3], preference[:, 2, 3]

    def ramp(m):
        return torch.relu(1 - m) - torch.relu(-0.5 - m)

    theirs = ramp(h) - ramp(h) * g - ramp(-h) * (1 - g)
    theirs = theirs + ramp(h_ref) * g_ref + ramp(-h_ref) * (1 - g_ref)
    found = vrpo_loss(rewards, preference, label, **REFERENCE_CODE)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-6)


def test_a_masked_sample_counts_for_nothing_whatever_it_holds():
    rewards, preference, label = draw(samples=3)
    mask = torch.tensor([[True, True, False]]).expand(6, 3)
    shorter = vrpo_loss(rewards[:, :4], preference[:, :4, :4], label, control_weight=0.8)
    spoiled = rewards.clone()
    spoiled[:, 4] = math.nan
    spoiled.requires_grad_()
    found = vrpo_loss(spoiled, preference, label, control_weight=0.8, sample_mask=mask)
    torch.testing.assert_close(found, shorter, rtol=0, atol=1e-12)
    (grad,) = torch.autograd.grad(found.sum(), spoiled)
    assert torch.isfinite(grad).all()


def test_an_unpooled_prompt_with_one_sample_is_dpo():
    rewards, preference, label = draw(samples=3)
    mask = torch.tensor([[False, True, False]]).expand(6, 3)
    found = vrpo_loss(rewards, preference, label, control_weight=0.8, pool=False, sample_mask=mask)
    dpo = vrpo_loss(rewards, preference, label, control_weight=0.0)
    torch.testing.assert_close(found, dpo, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_terms_add_up_to_the_loss(loss):
    rewards, preference, label = draw()
    options = dict(loss=loss, tau=TAU.get(loss), margin_clip=1.0)
    terms = vrpo_terms(rewards, preference, label, **options)
    total = terms.observed + 0.4 * (terms.resampled - terms.predicted)
    found = vrpo_loss(rewards, preference, label, control_weight=0.4, **options)
    torch.testing.assert_close(total, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_slope_is_the_derivative(loss):
    margin = torch.linspace(-2.03, 2.03, 30, dtype=F64, requires_grad=True)
    half = torch.full((30,), 0.3, dtype=F64)
    pairs = torch.stack([margin, torch.zeros_like(margin)], dim=1)
    preference = torch.full((30, 2, 2), 0.5, dtype=F64)
    total = vrpo_loss(
        pairs, preference, half, control_weight=0.0, loss=loss, tau=TAU.get(loss)
    ).sum()
    (grad,) = torch.autograd.grad(total, margin)
    found = pair_slope(margin, half, loss=loss, tau=TAU.get(loss))
    torch.testing.assert_close(found.detach(), grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"control_weight": 1.5},
        {"loss": "hing"},
        {"loss": "ipo"},
        {"margin_clip": 0.0},
        {"sample_mask": torch.ones(6, 2, dtype=torch.bool)},
    ],
)
def test_bad_arguments_are_value_errors(change):
    rewards, preference, label = draw()
    with pytest.raises(ValueError, match=r"must be|needs"):
        vrpo_loss(rewards, preference, label, **{"control_weight": 0.5, **change})
