"""The control weight: its running estimate, its error, many ranks, and that it survives restarts.

What its statistics are is tested beside the loss, and what it recovers in the simulated world.
"""

import json

import pytest
import torch
from loss_cases import F64

from vrpo.control import ControlWeight, control_statistics
from vrpo.errors import NumericalError


def draw(n=400, samples=3, seed=0):
    """Rewards, a direction, a Bradley-Terry preference model and labels drawn from it."""
    g = torch.Generator().manual_seed(seed)
    rewards = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    direction = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    logits = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    preference = torch.sigmoid(logits[:, :, None] - logits[:, None, :])
    label = (torch.rand(n, generator=g, dtype=F64) < preference[:, 0, 1]).to(F64)
    return rewards, direction, preference, label


def test_the_estimate_is_least_squares_through_the_origin():
    a = torch.tensor([1.0, 2.0, 4.0, 1.0] * 30)
    d = torch.tensor([-1.0, 0.0, 1.0, 0.0] * 30)
    weight = ControlWeight("auto")
    weight.update(a, d)
    # sum (a - 2) d = 30 (1 + 2) = 90, times n / (n - 1) = 120 / 119, over sum d^2 = 60: above 1
    assert weight.current == 1.0
    weight = ControlWeight("auto")
    weight.update(a, 4 * d)  # 90 * 4 * 120 / 119 / (60 * 16) = 0.378
    assert weight.current == pytest.approx(0.375 * 120 / 119, abs=1e-12)
    weight = ControlWeight("auto")
    weight.update(a, -4 * d)
    assert weight.current == 0.0


def test_numerator_and_denominator_are_remembered_apart_by_hand():
    # batches of 100 with sum (a - mean) d = 100 and 0, sum d^2 = 100 and 400, decay 1/2:
    # half of 100 * 100 / 99, over half of 100 plus 400
    ones = torch.tensor([1.0, -1.0] * 50)
    other = torch.tensor([1.0, 1.0, -1.0, -1.0] * 25)
    weight = ControlWeight("auto", decay=0.5)
    weight.update(ones, ones)
    weight.update(other, 2 * ones)
    assert weight.current == pytest.approx(50 * 100 / 99 / 450, abs=1e-12)


def test_a_weight_for_a_batch_does_not_depend_on_that_batch():
    first, second = (control_statistics(*draw(seed=seed), pool=False) for seed in (0, 1))
    weight = ControlWeight("auto")
    weight.update(*first)
    before = weight.current
    assert 0 < before < 1
    # read for the batch, then updated with it
    weight.update(*second)
    assert weight.current != before


def test_the_weight_is_zero_until_the_estimate_is_stable():
    weight = ControlWeight("auto")
    assert (weight.current, weight.estimate, weight.standard_error) == (0.0, None, None)
    weight.update(torch.ones(8), torch.ones(8))
    assert weight.current == 0.0
    _, _, preference, label = draw(n=80, samples=0)
    a, d = control_statistics(torch.randn(80, 2), torch.randn(80, 2), preference, label, pool=True)
    weight.update(a, d)
    assert torch.equal(d, torch.zeros(80))
    # one prompt that is all of the denominator is no estimate
    wild = ControlWeight("auto")
    wild.update(torch.ones(100), torch.tensor([1000.0] + [0.1] * 99))
    assert wild.estimate is None


def test_a_fixed_weight_stays_and_reports_the_estimate():
    weight = ControlWeight(0.3)
    a, d = control_statistics(*draw(), pool=True)
    weight.update(a, d)
    assert weight.current == 0.3
    assert 0 <= weight.estimate <= 1
    assert weight.standard_error > 0


@pytest.mark.parametrize("cuts", [(150,), (1, 399), (100, 200, 300)])
def test_ranks_that_add_their_sums_hold_the_estimate_of_one_process(cuts):
    a, d = control_statistics(*draw(), pool=False)
    alone = ControlWeight("auto")
    alone.update(a, d)
    parts = list(zip(torch.tensor_split(a, cuts), torch.tensor_split(d, cuts), strict=True))
    sums = []
    for part in parts:
        ControlWeight("auto", all_reduce=lambda found: sums.append(found) or found).update(*part)
    for part in parts:
        shared = ControlWeight("auto", all_reduce=lambda _: sum(sums))
        shared.update(*part)
        assert shared.current == pytest.approx(alone.current, abs=1e-12)
        assert shared.standard_error == pytest.approx(alone.standard_error, abs=1e-12)


def test_a_restored_weight_goes_on_bit_for_bit():
    statistics = [control_statistics(*draw(seed=seed), pool=False) for seed in range(6)]
    straight = ControlWeight("auto")
    for a, d in statistics:
        straight.update(a, d)
    first = ControlWeight("auto")
    for a, d in statistics[:3]:
        first.update(a, d)
    second = ControlWeight("auto")
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert (second.current, second.standard_error) == (first.current, first.standard_error)
    for a, d in statistics[3:]:
        second.update(a, d)
    assert second.state_dict() == straight.state_dict()
    assert (second.current, second.standard_error) == (straight.current, straight.standard_error)


def test_a_state_of_other_keys_is_refused():
    with pytest.raises(ValueError, match="keys"):
        ControlWeight("auto").load_state_dict({"examples": 1.0})


def test_the_standard_error_covers_the_spread_of_the_estimate():
    estimates, errors = [], []
    for seed in range(200):
        weight = ControlWeight("auto")
        weight.update(*control_statistics(*draw(seed=seed), pool=False))
        estimates.append(weight.estimate)
        errors.append(weight.standard_error)
    spread = torch.tensor(estimates).std().item()
    assert spread == pytest.approx(sum(errors) / len(errors), rel=0.15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_statistics_that_are_not_finite_are_refused_and_change_nothing(bad):
    weight = ControlWeight("auto")
    weight.update(*control_statistics(*draw(), pool=True))
    before = weight.state_dict()
    with pytest.raises(NumericalError, match="finite"):
        weight.update(torch.tensor([bad]), torch.ones(1))
    assert weight.state_dict() == before


@pytest.mark.parametrize("value", [-0.1, 1.1, "paper"])
def test_a_weight_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match="control weight"):
        ControlWeight(value)


def test_a_direction_that_does_not_fit_the_rewards_is_refused():
    rewards, direction, preference, label = draw(n=4)
    with pytest.raises(ValueError, match="direction"):
        control_statistics(rewards, direction[:, :3], preference, label, pool=True)
