"""The checks of the preference model, the control weight and the policy: numbers by hand."""

import math

import pytest
import torch
from loss_cases import F64

from vrpo.diagnostics import (
    calibration_check,
    control_weight_check,
    fold_gap,
    order_check,
    policy_drift,
    refusals,
    residual_check,
    residual_slice,
    retokenisation_drift,
)
from vrpo.errors import NumericalError


def test_calibration_by_hand_and_either_way_round():
    # confidence sigmoid(log 3) = 3/4 in all 4; the sides that came true: 1, 0, 1, 1 = 3/4
    logits = math.log(3) * torch.tensor([1.0, 1.0, -1.0, -1.0])
    label = torch.tensor([1.0, 0.0, 0.0, 0.0])
    found = calibration_check(logits, label)
    assert found.accuracy.value == 0.75
    assert found.nll == pytest.approx(-(3 * math.log(0.75) + math.log(0.25)) / 4)
    assert found.ece == pytest.approx(0, abs=1e-7)
    assert found.temperature == pytest.approx(1, abs=1e-6)
    assert found.gain_ceiling == pytest.approx(0.25)
    # variance of the only bin: 4 * 3/16 = 3/4, below 1: too few to say anything
    assert found.bins_p_value == 1.0
    assert not found.alarm
    swapped = calibration_check(-logits, 1 - label)
    assert (swapped.nll, swapped.temperature) == (found.nll, found.temperature)
    # 20 times as many with 1/2 true: (40 - 60)^2 / (80 * 3/16) = 26.7 with one degree of freedom
    wrong = torch.tensor([1.0, 0.0, 0.0, 1.0]).repeat(20)
    missed = calibration_check(logits.repeat(20), wrong)
    assert missed.bins_p_value == pytest.approx(math.erfc(math.sqrt(400 / 15 / 2)), rel=1e-6)
    assert missed.useless  # -(log 3/4 + log 1/4) / 2 = 0.837 nats
    assert missed.overconfident
    assert calibration_check(logits, label / 2).bins_p_value is None
    assert calibration_check(logits, torch.full((4,), 0.5)).accuracy is None


def test_a_judges_love_of_the_first_answer_by_hand():
    # A shown first gets 0.9 and 0.5, shown second 0.7 and 0.3: 0.2 more, 0.1 beyond their mean
    found = order_check(torch.tensor([0.9, 0.5] * 20), torch.tensor([0.7, 0.3] * 20))
    assert found.antisymmetry_error == pytest.approx(0.2)
    assert found.position_bias == pytest.approx(0.1)
    assert found.alarm
    assert "shown first" in found.meaning
    other = order_check(torch.tensor([0.7, 0.3] * 20), torch.tensor([0.9, 0.5] * 20))
    assert other.position_bias == pytest.approx(-0.1)
    assert "shown second" in other.meaning
    # as often for as against: an error and no bias
    even = order_check(torch.tensor([0.9, 0.5] * 20), torch.tensor([0.7, 0.7] * 20))
    assert even.antisymmetry_error == pytest.approx(0.2)
    assert even.position_bias == pytest.approx(0, abs=1e-7)
    assert not even.alarm
    same = order_check(torch.full((10,), 0.6), torch.full((10,), 0.6))
    assert (same.z, same.alarm) == (0.0, False)


def test_certainty_that_labels_contradict_is_overconfidence():
    label = torch.tensor([1.0, 0.0] * 50)
    found = residual_check(label, torch.ones(100))
    assert found.alarm
    assert found.overconfident


def test_a_memoriser_is_found_and_an_honest_model_is_not():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(2000, generator=g)
    label = (torch.rand(2000, generator=g) < p).float()
    assert not residual_check(label, p).alarm
    # honest p uniform on [0, 1] promises 1/6; the first memoriser 0.05 * 0.95 and gives 0.05^2
    leak = residual_check(label, 0.05 + 0.9 * label)
    assert leak.leakage
    assert (leak.observed, leak.promised) == (pytest.approx(0.0025), pytest.approx(0.0475))
    assert residual_check(label, label.clamp(0.001, 0.999)).leakage
    # half a memoriser: 0.25^2 = 0.0625 against 0.25 * 0.75 = 0.1875 is a leak; at 0.3 it is 0.09
    # against 0.21, and at 0.35 0.1225 against 0.2275, which a model that is too unsure gives too
    assert residual_check(label, 0.3 + 0.4 * label).leakage
    unsure = residual_check(label, 0.35 + 0.3 * label)
    assert (unsure.leakage, unsure.underconfident, unsure.alarm) == (False, True, True)
    assert "or has seen" in unsure.meaning
    # what the data alone cannot tell apart: right and certain on an easy task looks the same
    assert residual_check(torch.ones(100), torch.full((100,), 0.999)).leakage


def test_a_slice_of_the_residuals_by_hand_and_either_way_round():
    label, p = torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.full((4,), 0.5)
    longer = torch.tensor([3.0, 1.0, -2.0, 0.0])
    # turned to the longer one: 1/2, 1/2, 1/2; the last pair is left out; se sqrt(3/4) / 3
    found = residual_slice("length", label, p, longer)
    assert found.residual == pytest.approx(0.5)
    assert found.z == pytest.approx(math.sqrt(3))
    swapped = residual_slice("length", 1 - label, 1 - p, -longer)
    assert (swapped.residual, swapped.z) == (found.residual, found.z)
    assert not found.alarm
    many = residual_slice("length", label.repeat(9), p.repeat(9), longer.repeat(9))
    assert many.alarm  # z = 3 sqrt(3)
    assert "favour length more" in many.meaning
    with pytest.raises(ValueError, match="differs in its length"):
        residual_slice("length", label, p, torch.zeros(4))


def test_the_gap_between_seen_and_unseen_labels_by_hand():
    label = torch.tensor([1.0, 0.0] * 50)
    seen, unseen = 0.5 + 0.4 * (label - 0.5), torch.full((100,), 0.5)
    # -log 0.7 on its own labels, log 2 on others
    found = fold_gap(label, seen, unseen)
    assert found.gap == pytest.approx(math.log(2) + math.log(0.7), abs=1e-6)
    assert found.overfit
    assert not fold_gap(label, seen, seen).alarm
    reverse = fold_gap(label, 1 - seen, 1 - seen)
    assert reverse.underfit
    assert reverse.gap == 0


def test_a_control_weight_near_one_at_one_pair_is_a_leak():
    # true preferences have 1/2 there
    assert control_weight_check(0.95, 0.05, samples=2, pool=False).leakage
    assert not control_weight_check(0.55, 0.05, samples=2, pool=False).alarm
    assert not control_weight_check(0.95, 0.05, samples=2, pool=True).alarm
    assert not control_weight_check(0.95, 0.05, samples=8, pool=False).alarm
    assert not control_weight_check(0.8, 0.2, samples=2, pool=False).alarm
    assert control_weight_check(0.6, 0.1, samples=4, pool=True, residuals_leak=True).leakage
    assert control_weight_check(0.05, 0.1, samples=4, pool=True).useless


def test_the_trend_of_the_control_weight_by_hand():
    history = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    found = control_weight_check(0.8, 0.1, samples=4, pool=True, history=history)
    # the last two, 0.75 on average, minus the first two, 0.15
    assert found.trend == pytest.approx(0.6)
    assert control_weight_check(0.8, 0.1, samples=4, pool=True, history=[0.8]).trend == 0
    with pytest.raises(ValueError, match="finite"):
        control_weight_check(math.nan, 0.1, samples=4, pool=True)


def test_drift_by_hand():
    anchor = torch.tensor([[-10.0, -20.0], [-30.0, -10.0], [-5.0, -5.0]])
    policy = torch.tensor([[-12.0, -26.0], [-36.0, -14.0], [0.0, 0.0]])
    length = torch.tensor([[4.0, 4.0], [6.0, 8.0], [1.0, 1.0]])
    label = torch.tensor([1.0, 0.0, 0.5])
    found = policy_drift(
        policy,
        anchor,
        length,
        label,
        sampled_policy_NK=torch.tensor([[-4.0, -8.0], [-3.0, math.nan], [math.nan, math.nan]]),
        sampled_anchor_NK=torch.tensor([[-2.0, -4.0], [-1.0, 0.0], [0.0, 0.0]]),
        sample_mask=torch.tensor([[True, True], [True, False], [False, False]]),
        own_policy_M=torch.tensor([-6.0, -10.0]),
        own_anchor_M=torch.tensor([-7.0, -12.0]),
        own_length_M=torch.tensor([3.0, 5.0]),
    )
    # preferred: -2 over 4 tokens, -4 over 8; the other: -6 and -6; the tie is left out
    assert (found.preferred, found.other, found.preferred_per_token) == (-3, -6, -0.5)
    # samples: the mean of -2 and -4, and -2 for the second prompt
    assert found.sampled == pytest.approx(-2.5)
    assert found.kl == pytest.approx(1.5)
    assert found.entropy_per_token == pytest.approx(2)
    assert not found.alarm  # at the limit and not below
    worse = policy_drift(policy - 20 * length, anchor, length, label)
    assert worse.displaced
    assert (worse.sampled, worse.kl, worse.entropy_per_token) == (None, None, None)
    with pytest.raises(ValueError, match="tie"):
        policy_drift(policy[2:], anchor[2:], length[2:], label[2:])
    with pytest.raises(NumericalError, match="finite"):
        policy_drift(policy * math.inf, anchor, length, label)


def test_samples_whose_text_has_other_tokens_are_counted():
    drawn = [[1, 2, 3]] * 99 + [[4, 5]]
    found = retokenisation_drift(drawn, [[1, 2, 3]] * 99 + [[45]])
    assert (found.share, found.alarm) == (0.01, False)
    assert retokenisation_drift(drawn[50:], [*drawn[50:99], [45]]).alarm
    assert retokenisation_drift(drawn, drawn).share == 0
    with pytest.raises(ValueError, match="tokens"):
        retokenisation_drift([], [])


def test_refusals_are_told_by_how_a_text_opens():
    declined = [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "As an AI language model, I cannot give medical advice.",
        "I am unable to answer this.",
    ]
    answered = [
        "I can help with that!",
        "I'm sorry to hear that. Try to rest.",
        "Sure. I cannot stress enough: drink water.",
        "",
    ]
    assert refusals(declined + answered).tolist() == [1.0] * 4 + [0.0] * 4


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: calibration_check(bad, torch.ones(2)),
        lambda bad: order_check(bad, torch.ones(2)),
        lambda bad: residual_check(bad, torch.ones(2)),
        lambda bad: residual_slice("length", bad, torch.ones(2), torch.ones(2)),
        lambda bad: fold_gap(torch.ones(2), bad, torch.ones(2)),
    ],
)
def test_values_that_are_not_finite_are_refused(call):
    with pytest.raises(NumericalError, match="finite"):
        call(torch.tensor([0.5, math.nan], dtype=F64))
