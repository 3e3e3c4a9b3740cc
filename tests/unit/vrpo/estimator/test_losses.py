"""The loss against its definition, and where it must be DPO or must not."""

import itertools
import math

import pytest
import torch
from loss_cases import F64, definition, draw, equal, options

from vrpo.losses import (
    LOSSES,
    debiased_label,
    pair_slope,
    smoothed_label,
    vrpo_loss,
    vrpo_terms,
)


def value_and_gradient(loss_of, rewards):
    leaf = rewards.clone().requires_grad_()
    found = loss_of(leaf)
    return found.detach(), torch.autograd.grad(found.sum(), leaf)[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weight", [0.0, 0.37, 1.0])
@pytest.mark.parametrize("pool", [True, False])
def test_the_closed_form_equals_the_four_terms_in_value_and_gradient(loss, weight, pool):
    # rounding grows with the size of the terms, which reach 10 here: 3e-15 of that
    rewards, preference, label = draw()
    closed = value_and_gradient(
        lambda r: vrpo_loss(
            r, preference, label, control_weight=weight, pool=pool, **options(loss)
        ),
        rewards,
    )
    defined = value_and_gradient(
        lambda r: definition(r, preference, label, weight=weight, pool=pool, loss=loss), rewards
    )
    scale = float(defined[0].abs().max().clamp(min=1))
    equal(closed[0], defined[0], 3e-15 * scale)
    equal(closed[1], defined[1], 3e-15 * scale)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pool", [True, False])
def test_without_samples_every_weight_and_preference_is_dpo(loss, pool):
    rewards, preference, label = draw(samples=0)
    dpo, dpo_gradient = value_and_gradient(
        lambda r: vrpo_loss(r, preference, label, control_weight=0.0, **options(loss)), rewards
    )
    for weight, judged in itertools.product((0.3, 1.0), (preference, 1 - preference)):
        found, gradient = value_and_gradient(
            lambda r, w=weight, p=judged: vrpo_loss(
                r, p, label, control_weight=w, pool=pool, **options(loss)
            ),
            rewards,
        )
        equal(found, dpo)
        equal(gradient, dpo_gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sampled_pair_equal_to_the_labelled_pair_gives_dpo(loss):
    rewards, preference, label = draw(samples=0)
    doubled = rewards[:, [0, 1, 0, 1]]
    preferences = preference[:, [0, 1, 0, 1]][:, :, [0, 1, 0, 1]]
    dpo = vrpo_loss(rewards, preference, label, control_weight=0.0, **options(loss))
    found = vrpo_loss(doubled, preferences, label, control_weight=1.0, pool=False, **options(loss))
    equal(found, dpo)


def test_a_constant_preference_model_is_not_dpo_but_its_correction_has_mean_zero():
    law = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    responses = torch.tensor([0.4, -1.1, 0.9], dtype=F64)
    draws = torch.tensor(list(itertools.product(range(3), repeat=4)))
    coin = torch.full((len(draws), 4, 4), 0.5, dtype=F64)
    label = torch.ones(len(draws), dtype=F64)
    loss, dpo = (
        vrpo_loss(responses[draws], coin, label, control_weight=weight, pool=False)
        for weight in (1.0, 0.0)
    )
    # equal where the two pairs have margins of one size: |m| in {0, 0.5, 1.5, 2}, all others not
    size = (responses[draws[:, 0]] - responses[draws[:, 1]]).abs()
    other = (responses[draws[:, 2]] - responses[draws[:, 3]]).abs()
    differs = (size - other).abs() > 1e-9
    assert bool(((loss - dpo).abs() > 1e-2)[differs].all())
    equal(loss[~differs], dpo[~differs])
    assert abs((law[draws].prod(1) * (loss - dpo)).sum().item()) < 1e-12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pool", [True, False])
def test_adding_a_constant_to_a_prompts_rewards_has_no_gradient(loss, pool):
    rewards, preference, label = draw()
    _, gradient = value_and_gradient(
        lambda r: vrpo_loss(r, preference, label, control_weight=0.6, pool=pool, **options(loss)),
        rewards,
    )
    equal(gradient.sum(1), torch.zeros(6, dtype=F64))


@pytest.mark.parametrize("pool", [True, False])
def test_the_policys_own_preference_leaves_the_gradient_of_dpo(pool):
    rewards, _, label = draw()
    own = torch.sigmoid(rewards[:, :, None] - rewards[:, None, :])
    gradients = [
        value_and_gradient(
            lambda r, w=weight: vrpo_loss(r, own, label, control_weight=w, pool=pool), rewards
        )[1]
        for weight in (0.0, 0.4, 1.0)
    ]
    equal(gradients[1], gradients[0])
    equal(gradients[2], gradients[0])
    leaf = rewards.clone().requires_grad_()
    reference = vrpo_terms(leaf, own, label, pool=pool).resampled
    (gradient,) = torch.autograd.grad(reference.sum(), leaf)
    equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_preference_model_that_equals_the_label_leaves_the_sampled_pairs_alone(loss):
    rewards, preference, label = draw()
    preference[:, 0, 1], preference[:, 1, 0] = label, 1 - label
    _, gradient = value_and_gradient(
        lambda r: vrpo_loss(r, preference, label, control_weight=1.0, pool=False, **options(loss)),
        rewards,
    )
    assert torch.equal(gradient[:, :2], torch.zeros(6, 2, dtype=F64))
    assert gradient[:, 2:].abs().max() > 0.01


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_is_linear_in_the_label_so_that_soft_labels_are_cdpo_and_rdpo(loss):
    rewards, preference, _ = draw()

    def at(z):
        label = z if isinstance(z, torch.Tensor) else torch.full((6,), float(z), dtype=F64)
        return vrpo_loss(rewards, preference, label, control_weight=0.6, **options(loss))

    equal(at(0.3), 0.3 * at(1) + 0.7 * at(0))
    ones = torch.ones(6, dtype=F64)
    smooth = at(smoothed_label(ones, flip_rate=0.1))
    equal(smooth, 0.9 * at(1) + 0.1 * at(0))
    # rDPO, arXiv 2403.00409: ((1 - e) l(1) - e l(0)) / (1 - 2 e)
    robust = at(debiased_label(ones, flip_rate=0.1))
    equal(robust, (0.9 * at(1) - 0.1 * at(0)) / 0.8)


def test_equal_samples_add_log_two_and_no_gradient():
    rewards = torch.tensor([[0.4, -0.1, 0.9, 0.9]], dtype=F64, requires_grad=True)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    terms = vrpo_terms(rewards, preference, torch.ones(1, dtype=F64), pool=False)
    assert terms.resampled.item() == pytest.approx(math.log(2), abs=1e-15)
    (grad,) = torch.autograd.grad(terms.resampled.sum(), rewards)
    assert torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_terms_add_up_to_the_loss(loss):
    rewards, preference, label = draw()
    terms = vrpo_terms(rewards, preference, label, margin_clip=1.0, **options(loss))
    total = terms.observed + 0.4 * (terms.resampled - terms.predicted)
    found = vrpo_loss(
        rewards, preference, label, control_weight=0.4, margin_clip=1.0, **options(loss)
    )
    equal(total, found)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_slope_is_the_derivative(loss):
    # the last four are the kinks of hinge and ramp, where it is autograd's too
    margin = torch.linspace(-2.03, 2.03, 26, dtype=F64)
    kinks = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=F64)
    margin = torch.cat([margin, kinks]).requires_grad_()
    half = torch.full((30,), 0.3, dtype=F64)
    pairs = torch.stack([margin, torch.zeros_like(margin)], dim=1)
    preference = torch.full((30, 2, 2), 0.5, dtype=F64)
    total = vrpo_loss(pairs, preference, half, control_weight=0.0, **options(loss)).sum()
    (grad,) = torch.autograd.grad(total, margin)
    equal(pair_slope(margin, half, **options(loss)).detach(), grad)


@pytest.mark.parametrize(
    "change",
    [
        {"control_weight": 1.5},
        {"control_weight": -0.1},
        {"loss": "hing"},
        {"loss": "ipo"},
        {"loss": "ipo", "tau": 0.0},
        {"margin_clip": 0.0},
        {"sample_mask": torch.ones(6, 2, dtype=torch.bool)},
    ],
)
def test_bad_arguments_are_value_errors(change):
    rewards, preference, label = draw()
    with pytest.raises(ValueError, match=r"must be|needs"):
        vrpo_loss(rewards, preference, label, **{"control_weight": 0.5, **change})


@pytest.mark.parametrize("which", [0, 1, 2])
def test_shapes_that_do_not_fit_are_value_errors(which):
    arguments = list(draw())
    arguments[which] = arguments[which][..., :-1]
    with pytest.raises(ValueError, match="must be"):
        vrpo_loss(*arguments, control_weight=0.5)


@pytest.mark.parametrize("rate", [-0.1, 0.5])
def test_a_flip_rate_that_cannot_be_undone_is_refused(rate):
    with pytest.raises(ValueError, match="flip_rate"):
        debiased_label(torch.ones(1), flip_rate=rate)
