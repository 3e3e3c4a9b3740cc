"""The checks of a run: numbers by hand, and that each alarms where it should and only there."""

import math

import pytest
import torch

from vrpo.diagnostics import (
    agreement_check,
    compare_weights,
    embedding_balance,
    feature_balance,
    label_gain,
    margin_summary,
    predicted_variance_ratio,
    preference_balance,
    runaway_check,
    support_check,
    term_split,
)
from vrpo.errors import NumericalError
from vrpo.losses import LOSSES, vrpo_loss, vrpo_terms

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def coherent(logits_NC):
    return torch.sigmoid(logits_NC[:, :, None] - logits_NC[:, None, :])


def test_agreement_by_hand():
    # signs of m: + - + 0, labels + + - tie, model + - - +
    margin = torch.tensor([1.0, -2.0, 3.0, 0.0])
    label = torch.tensor([1.0, 0.8, 0.0, 0.5])
    model = torch.tensor([0.9, 0.1, 0.2, 0.7])
    found = agreement_check(margin, label, model)
    assert found.policy_with_labels.value == pytest.approx(1 / 3)
    assert found.policy_with_model.value == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found.model_with_labels.value == pytest.approx(2 / 3)
    assert found.policy_with_model_sampled is None
    assert found.ceiling == pytest.approx((1 + 0.8 + 1) / 3)
    assert not found.alarm


def test_a_reversed_preference_model_alarms():
    label = torch.tensor([1.0, 0.0] * 30)
    model = 0.5 - 0.3 * (label - 0.5)
    sampled = torch.tensor([[1.0, -1.0]])
    found = agreement_check(
        model - 0.5, label, model, sampled_margin_P=sampled, sampled_preference_P=sampled.sigmoid()
    )
    assert found.alarm
    assert "turned round" in found.meaning
    assert found.policy_with_model_sampled.value == 1
    assert not agreement_check(label, label, 1 - model).alarm
    assert agreement_check(label, torch.full((60,), 0.5), model).model_with_labels is None


def test_support_by_hand():
    samples = [[(5, 6, 2), (5, 6, 2), (7, 8, 9)], [(2,), (2,)], [(4, 4)], []]
    reasons = [["stop", "stop", "length"], ["stop", "stop"], ["length"], []]
    found = support_check(samples, reasons, labelled_truncated_share=0.3)
    assert found.samples == 6
    assert found.unique_share == pytest.approx((2 + 1 + 1) / 6)
    assert found.duplicate_pair_share == pytest.approx((1 + 1) / (3 + 1))
    assert found.collapsed_share == pytest.approx(1 / 2)
    assert found.empty_share == pytest.approx(2 / 6)
    assert found.truncated_share == pytest.approx(2 / 6)
    assert found.finish_reasons == {"stop": 4, "length": 2}
    assert not found.alarm  # half of the pairs is not more than half, 0.33 is near 0.3
    assert support_check(samples, reasons).alarm
    assert "length limit" in support_check(samples, reasons, labelled_truncated_share=0.0).meaning
    same = support_check([[(1, 2)] * 4], [["stop"] * 4])
    assert same.alarm
    assert "temperature 1" in same.meaning


def test_samples_without_reasons_are_refused():
    with pytest.raises(ValueError, match="finish reason"):
        support_check([[(1,)]], [[]])
    with pytest.raises(ValueError, match="at least one sample"):
        support_check([[]], [[]])


def test_margins_by_hand():
    margin = torch.linspace(-5, 5, 101, dtype=F64)
    label = (margin > 0).to(F64)
    loss = torch.ones(101, dtype=F64)
    loss[:3] = -1
    found = margin_summary(margin, label, loss, sampled_margin_P=margin, margin_clip=4.5)
    # in favour of the label all are |m|: 0.1 apart, two of each size but one 0
    assert found.labelled[3] == pytest.approx(2.5)
    assert found.sampled == found.labelled
    assert found.clipped_share == pytest.approx(12 / 101)
    assert found.sampled_clipped_share == pytest.approx(12 / 101)
    assert (found.negative_count, found.negative_share) == (3, pytest.approx(3 / 101))
    assert found.linear_share is None
    assert not found.alarm
    assert margin_summary(margin, label, loss, margin_clip=1.0).alarm
    assert margin_summary(margin, label, -loss).alarm


def test_the_linear_share_grows_to_one_half_of_a_runaway_and_more():
    # lambda 1, p = 1/2, z = 1: the loss is -m / 2 + log 2 of a reference pair at 0
    margin = torch.full((4,), 40.0, dtype=F64)
    loss = -margin / 2 + math.log(2)
    found = margin_summary(
        margin,
        torch.ones(4, dtype=F64),
        loss,
        preference_N=torch.full((4,), 0.5, dtype=F64),
        control_weight=1.0,
    )
    # 20 of the line over 20 + 0.693
    assert found.linear_share == pytest.approx(20 / (20 + math.log(2)))
    assert found.alarm


@pytest.mark.parametrize("loss", LOSSES)
def test_the_split_adds_up_to_the_loss_and_its_gradient(loss):
    rewards, label = normal(50, 5), (normal(50, seed=1) > 0).to(F64)
    preference = coherent(normal(50, 5, seed=2))
    options = {"loss": loss, "tau": 0.5, "margin_clip": 2.0}
    found = term_split(rewards, preference, label, control_weight=0.4, **options)
    leaf = rewards.clone().requires_grad_()
    total = vrpo_loss(leaf, preference, label, control_weight=0.4, **options)
    assert found.data + 0.4 * found.correction == pytest.approx(total.mean().item(), abs=1e-12)
    assert found.correction == pytest.approx(found.reference - found.predicted, abs=1e-12)
    (grad,) = torch.autograd.grad(total.sum(), leaf)
    # |g + c|^2 = |g|^2 + |c|^2 + 2 cos |g| |c|
    one, other = found.data_gradient, found.correction_gradient
    squared = one**2 + other**2 + 2 * (found.cosine or 0.0) * one * other
    assert grad.square().sum(1).mean().item() == pytest.approx(squared, abs=1e-12)


def test_the_gradients_of_the_terms_are_those_of_the_formulas():
    """Method 3.0's golden triple: rewards .5, -.2, 1.1 with p .7, .35, .2, all pairs."""
    rewards = torch.tensor([[0.5, -0.2, 1.1]], dtype=F64)
    preference = torch.full((1, 3, 3), 0.5, dtype=F64)
    for (j, k), p in {(0, 1): 0.7, (0, 2): 0.35, (1, 2): 0.2}.items():
        preference[0, j, k], preference[0, k, j] = p, 1 - p
    twice = torch.ones(2, 1, 1, dtype=F64)
    found = term_split(
        rewards.repeat(2, 1), twice * preference, torch.ones(2, dtype=F64), control_weight=0.5
    )
    slope = 1 / (1 + math.exp(-0.7))
    assert found.data_gradient == pytest.approx(math.sqrt(2) * (1 - slope))
    assert found.predicted_gradient == pytest.approx(math.sqrt(2) * abs(slope - 0.7))
    gradient = torch.tensor([-0.009156178019, 0.015325748263, -0.006169570244], dtype=F64)
    assert found.reference_gradient == pytest.approx(gradient.norm().item(), abs=1e-10)


def test_a_correction_that_is_not_zero_alarms():
    rewards, label = normal(400, 6), torch.ones(400, dtype=F64)
    preference = coherent(normal(400, 6, seed=2))
    assert not term_split(rewards, preference, label, control_weight=0.5).alarm
    shifted = rewards.clone()
    shifted[:, 0] += 4  # the policy knows the labelled pairs by heart
    found = term_split(shifted, preference, label, control_weight=0.5)
    assert found.alarm
    assert "by heart" in found.meaning
    terms = vrpo_terms(shifted, preference, label)
    assert found.z == pytest.approx(
        (terms.resampled - terms.predicted).mean().item()
        / ((terms.resampled - terms.predicted).std().item() / 20)
    )


def test_the_best_of_three_weights_is_found():
    # a = 0.5 d + e with Var d = Var e = 1: Var a = 1.25, at 1/2 it is 1, at 1 again 1.25
    d, e = normal(4000), normal(4000, seed=1)
    found = compare_weights(0.5 * d + e, d, control_weight=1.0)
    assert found.best == pytest.approx(0.5, abs=0.05)
    assert found.weights == (0.0, found.best, 1.0)
    assert found.ratios[0].ratio == pytest.approx(1)
    assert found.ratios[1].ratio == pytest.approx(0.8, abs=0.05)
    assert found.loss_of_used == pytest.approx(0.2, abs=0.05)
    assert found.loss_of_used == pytest.approx(found.ratios[2].ratio - found.ratios[1].ratio)
    assert found.alarm
    calm = compare_weights(0.5 * d + e, d, control_weight=0.45)
    assert len(calm.weights) == 4
    assert not calm.alarm


def test_the_gain_of_labels_and_its_price():
    # ratio 0.8 -> 125 labels for 100; K = 4 takes 3 sequences for one of DPO
    d, e = normal(20000), normal(20000, seed=1)
    ratio = predicted_variance_ratio(0.5 * d + e, d, control_weight=0.5)
    found = label_gain(ratio, samples=4)
    assert found.gain == pytest.approx(1.25, abs=0.04)
    assert found.cost == 3
    assert found.gain_per_cost == pytest.approx(found.gain / 3)
    assert found.low < found.gain < found.high
    assert not found.alarm
    assert label_gain(ratio, samples=4, measured_cost=2.0).gain_per_cost > found.gain_per_cost
    nothing = predicted_variance_ratio(e, d, control_weight=0.5)
    assert label_gain(nothing, samples=4).alarm


def test_the_preference_model_tells_labelled_from_sampled_completions():
    logits = normal(600, 6)
    wins, certainty = preference_balance(coherent(logits))
    assert not wins.alarm
    assert not certainty.alarm
    better = logits.clone()
    better[:, :2] += 0.5
    wins, certainty = preference_balance(coherent(better))
    assert wins.alarm
    # mean of 2p - 1 over labelled against sampled
    expected = (2 * coherent(better)[:, :2, 2:] - 1).mean().item()
    assert wins.difference == pytest.approx(expected, abs=1e-12)
    assert expected > 0
    farther = logits.clone()
    farther[:, :2] *= 3
    assert preference_balance(coherent(farther))[1].alarm
    assert len(preference_balance(coherent(logits[:, :3]))) == 1


def test_a_missing_sample_is_left_out_of_the_balance():
    logits = normal(50, 4)
    mask = torch.ones(50, 2, dtype=torch.bool)
    mask[:, 1] = False
    spoiled = coherent(logits)
    spoiled[:, :, 3] = spoiled[:, 3, :] = 0.99
    found = preference_balance(spoiled, mask)
    assert len(found) == 1
    alone = preference_balance(coherent(logits[:, :3]))
    assert found[0].z == pytest.approx(alone[0].z)
    embeddings = normal(50, 4, 3, seed=5)
    worse = embeddings.clone()
    worse[:, 3] = math.nan
    masked = embedding_balance(worse[:, :2], worse[:, 2:], mask)
    assert masked.p_value == pytest.approx(
        embedding_balance(embeddings[:, :2], embeddings[:, 2:3]).p_value
    )


def test_values_that_are_not_finite_are_refused():
    bad = torch.tensor([1.0, math.nan])
    with pytest.raises(NumericalError, match="finite"):
        agreement_check(bad, torch.ones(2), torch.ones(2))
    with pytest.raises(NumericalError, match="finite"):
        margin_summary(bad, torch.ones(2), torch.ones(2))
    with pytest.raises(NumericalError, match="finite"):
        feature_balance("length", torch.full((2, 2), math.nan), torch.ones(2, 1))
    assert runaway_check(bad, torch.ones(2)).alarm
