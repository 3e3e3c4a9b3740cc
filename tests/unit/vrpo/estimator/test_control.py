"""The control weight: its statistics, its running estimate, and that it survives a restart."""

import json

import pytest
import torch

from vrpo.control import ControlWeight, control_statistics
from vrpo.errors import NumericalError
from vrpo.losses import LOSSES, vrpo_loss

F64 = torch.float64


def draw(n=400, samples=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    rewards = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    direction = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    logits = torch.randn(n, 2 + samples, generator=g, dtype=F64)
    preference = torch.sigmoid(logits[:, :, None] - logits[:, None, :])
    label = (torch.rand(n, generator=g, dtype=F64) < preference[:, 0, 1]).to(F64)
    return rewards, direction, preference, label


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_the_statistics_are_the_loss_gradient_along_the_direction(loss, pool, clip):
    rewards, direction, preference, label = draw(n=20)
    options = {"pool": pool, "loss": loss, "margin_clip": clip, "tau": 0.5}
    a, d = control_statistics(rewards, direction, preference, label, **options)
    for weight in (0.0, 0.6):
        leaf = rewards.clone().requires_grad_()
        total = vrpo_loss(leaf, preference, label, control_weight=weight, **options).sum()
        (grad,) = torch.autograd.grad(total, leaf)
        along = (grad * direction).sum(1)
        torch.testing.assert_close(a - weight * d, along, rtol=0, atol=1e-12)


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


def test_the_weight_is_zero_until_the_estimate_is_stable():
    weight = ControlWeight("auto")
    assert (weight.current, weight.estimate, weight.standard_error) == (0.0, None, None)
    weight.update(torch.ones(8), torch.ones(8))
    assert weight.current == 0.0
    _, _, preference, label = draw(n=80, samples=0)
    a, d = control_statistics(torch.randn(80, 2), torch.randn(80, 2), preference, label, pool=True)
    weight.update(a, d)
    assert torch.equal(d, torch.zeros(80))


def test_a_fixed_weight_stays_and_reports_the_estimate():
    weight = ControlWeight(0.3)
    a, d = control_statistics(*draw(), pool=True)
    weight.update(a, d)
    assert weight.current == 0.3
    assert 0 <= weight.estimate <= 1
    assert weight.standard_error > 0


def test_ranks_that_add_their_sums_hold_the_estimate_of_one_process():
    a, d = control_statistics(*draw(), pool=True)
    alone = ControlWeight("auto")
    alone.update(a, d)
    halves = []
    for part in (slice(0, 150), slice(150, None)):
        ControlWeight("auto", all_reduce=lambda sums: halves.append(sums) or sums).update(
            a[part], d[part]
        )
    shared = ControlWeight("auto", all_reduce=lambda _: halves[0] + halves[1])
    shared.update(a[:150], d[:150])
    assert shared.current == pytest.approx(alone.current, abs=1e-12)


def test_a_restored_weight_goes_on_bit_for_bit():
    statistics = [control_statistics(*draw(seed=seed), pool=True) for seed in range(6)]
    straight = ControlWeight("auto")
    for a, d in statistics:
        straight.update(a, d)
    first = ControlWeight("auto")
    for a, d in statistics[:3]:
        first.update(a, d)
    second = ControlWeight("auto")
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for a, d in statistics[3:]:
        second.update(a, d)
    assert second.state_dict() == straight.state_dict()
    assert (second.current, second.standard_error) == (straight.current, straight.standard_error)


def test_the_standard_error_covers_the_spread_of_the_estimate():
    estimates, errors = [], []
    for seed in range(60):
        weight = ControlWeight("auto")
        weight.update(*control_statistics(*draw(seed=seed), pool=False))
        estimates.append(weight.estimate)
        errors.append(weight.standard_error)
    spread = torch.tensor(estimates).std().item()
    assert spread == pytest.approx(sum(errors) / len(errors), rel=0.35)


def test_statistics_that_are_not_finite_are_refused():
    with pytest.raises(NumericalError, match="finite"):
        ControlWeight("auto").update(torch.tensor([float("nan")]), torch.ones(1))


@pytest.mark.parametrize("value", [-0.1, 1.1, "paper"])
def test_a_weight_outside_the_unit_interval_is_refused(value):
    with pytest.raises(ValueError, match="control weight"):
        ControlWeight(value)
