"""Intervals and tails against numbers by hand, and how often intervals cover."""

import math

import pytest
import torch

from vrpo.statistics import (
    bootstrap_interval,
    chi_squared_tail,
    normal_quantile,
    normal_tail,
    wilson_interval,
)


def test_wilson_by_hand():
    # 5 of 10 at 95 %: (0.5 + 1.92073 / 10) / 1.384146 -+ ... = 0.2366, 0.7634
    found = wilson_interval(5, 10)
    assert (found.low, found.value, found.high) == pytest.approx((0.2366, 0.5, 0.7634), abs=1e-4)
    none = wilson_interval(0, 10)
    # z^2 / (n + z^2) = 3.8415 / 13.8415
    assert (none.low, none.high) == (0.0, pytest.approx(0.2775, abs=1e-4))


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_law():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    interval = bootstrap_interval(values)
    assert (interval.high - interval.low) == pytest.approx(
        2 * 1.96 * values.std().item() / math.sqrt(400), rel=0.1
    )


def test_equal_rows_of_a_group_count_once_in_the_bootstrap():
    values = torch.randn(100, generator=torch.Generator().manual_seed(2))
    alone = bootstrap_interval(values)
    four = bootstrap_interval(values.repeat_interleave(4), groups=[i // 4 for i in range(400)])
    assert (four.low, four.high) == pytest.approx((alone.low, alone.high))
    blind = bootstrap_interval(values.repeat_interleave(4))
    assert blind.high - blind.low < 0.6 * (alone.high - alone.low)


def test_tails_by_hand():
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert normal_tail(1.959964) == pytest.approx(0.05, abs=1e-7)
    # one degree of freedom is a squared normal, two an exponential of mean 2
    assert chi_squared_tail(1.959964**2, 1) == pytest.approx(0.05, abs=1e-7)
    assert chi_squared_tail(6.0, 2) == pytest.approx(math.exp(-3))
    assert chi_squared_tail(0.0, 4) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson_interval(3, 2),
        lambda: wilson_interval(0, 0),
        lambda: wilson_interval(1, 2, confidence=1.0),
        lambda: bootstrap_interval(torch.zeros(0)),
        lambda: bootstrap_interval(torch.zeros(2), groups=[1]),
    ],
)
def test_what_has_no_interval_is_refused(call):
    with pytest.raises(ValueError, match=r"need|must"):
        call()
