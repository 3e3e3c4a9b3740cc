"""Win rates, plain and with length held equal, and errors that count prompts."""

import math

import pytest
import torch

from vrpo.evaluate.divergence import clustered_error
from vrpo.evaluate.win_rate import length_controlled_win_rate, win_rate
from vrpo.statistics import wilson_interval


def contests(n, *, quality, length_bias, longer=0.0, seed=0):
    """Return wins and length differences under P(win) = sigmoid(quality + bias tanh(d / sd))."""
    generator = torch.Generator().manual_seed(seed)
    difference = longer + 10 * torch.randn(n, generator=generator, dtype=torch.float64)
    chance = torch.sigmoid(quality + length_bias * torch.tanh(difference / difference.std()))
    return (torch.rand(n, generator=generator, dtype=torch.float64) < chance).double(), difference


def test_with_one_contest_a_prompt_the_interval_is_wilsons():
    wins = torch.tensor([1.0, 0.0, 1.0, 0.5])
    assert win_rate(wins, [0, 1, 2, 3]) == wilson_interval(2.5, 4)


def test_copies_of_an_answer_do_not_narrow_the_interval():
    wins = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    once = win_rate(wins, range(8))
    copied = win_rate(wins.repeat_interleave(16), [n for n in range(8) for _ in range(16)])
    assert copied.value == once.value == 5 / 8
    assert copied.high - copied.low > 0.8 * (once.high - once.low)


def test_a_judge_that_likes_length_alone_gives_one_half_at_equal_length():
    wins, difference = contests(2000, quality=0.0, length_bias=3.0, longer=15.0)
    plain = win_rate(wins, range(2000))
    controlled = length_controlled_win_rate(wins, difference, range(2000), resamples=200)
    assert plain.low > 0.75
    assert controlled.low < 0.5 < controlled.high


def test_a_better_policy_stays_better_at_equal_length():
    # sigmoid(1) = 0.731
    wins, difference = contests(2000, quality=1.0, length_bias=2.0, longer=-10.0, seed=1)
    controlled = length_controlled_win_rate(wins, difference, range(2000), resamples=200)
    assert controlled.low < 1 / (1 + math.exp(-1)) < controlled.high
    assert win_rate(wins, range(2000)).high < controlled.low


def test_swapping_policy_and_opponent_gives_the_complement():
    wins, difference = contests(120, quality=0.4, length_bias=1.0, seed=2)
    ours = length_controlled_win_rate(wins, difference, range(120), resamples=100)
    theirs = length_controlled_win_rate(1 - wins, -difference, range(120), resamples=100)
    assert theirs.value == pytest.approx(1 - ours.value, abs=1e-9)
    assert (theirs.low, theirs.high) == pytest.approx((1 - ours.high, 1 - ours.low), abs=1e-9)


@pytest.mark.parametrize("wins", [torch.ones(20), torch.zeros(20)])
def test_one_side_that_always_wins_leaves_a_finite_answer(wins):
    difference = torch.arange(20.0) - 8
    found = length_controlled_win_rate(wins, difference, range(20), resamples=50)
    assert abs(found.value - float(wins[0])) < 0.05
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_without_a_difference_in_length_it_is_the_plain_win_rate():
    wins = torch.tensor([1.0, 0.0, 1.0])
    assert length_controlled_win_rate(wins, torch.zeros(3), range(3)) == win_rate(wins, range(3))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="N > 0"):
        length_controlled_win_rate(torch.ones(3), torch.ones(2), range(3))


def test_the_error_of_a_mean_counts_groups():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    # one row a group: the usual standard error, sd / sqrt(4)
    assert clustered_error(values, range(4)) == pytest.approx(float(values.std()) / 2)
    # rows copied within their group change nothing
    copied = clustered_error(values.repeat_interleave(5), [n for n in range(4) for _ in range(5)])
    assert copied == pytest.approx(float(values.std()) / 2)
    assert clustered_error(values, [0, 0, 0, 0]) == 0.0
