"""Win rates: plain, and with the length of the answers held equal.

The answers to one prompt are not independent, so every error counts prompts, not answers.

Shapes: N = contests, R = resamples.
"""

from collections.abc import Hashable, Sequence
from typing import Final

import torch
from torch import Tensor

from vrpo.statistics import Interval, bootstrap_interval, wilson_interval

RIDGE: Final = 1.0
"""Penalty on the slope of length: one prior observation, so that it stays finite."""
RIDGE_INTERCEPT: Final = 1e-2
"""Penalty on the intercept: weak, for contests that one side wins without exception."""
NEWTON_STEPS: Final = 25
RESAMPLES: Final = 1000
MOST_NUMBERS: Final = 1 << 21
"""Resamples times contests that are fitted at once: 16 MiB a tensor."""


def win_rate(wins_N: Tensor, groups: Sequence[Hashable]) -> Interval:
    """Return the share of wins (1, 1/2 for a tie, 0) with its 95 % interval.

    Wilson's with one contest a prompt, else the bootstrap over prompts. Raises ValueError for no
    contest.
    """
    if len(set(groups)) == len(groups):
        return wilson_interval(float(wins_N.sum()), len(wins_N))
    return bootstrap_interval(wins_N, groups=groups)


def length_controlled_win_rate(
    wins_N: Tensor,
    length_difference_N: Tensor,
    groups: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return the win rate that answers of equal length would have, with its 95 % interval.

    The verdict is regressed on the difference of lengths (policy minus opponent),

        P(win) = sigmoid(theta + phi tanh(difference / sd(difference))),

    and the answer is ``sigmoid(theta)``: length-controlled AlpacaEval (Dubois et al. 2024, arXiv
    2404.04475). Simpler than theirs: no term for the difficulty of a prompt, which they estimate
    over many models and which cannot be told from noise with two, and a fixed ridge on ``phi``
    instead of a cross-validated one. The difference is scaled and not centred, so that zero stays
    zero. The interval is a bootstrap over prompts. Without any difference in length it is the plain
    win rate. Raises ValueError for shapes that differ or no contest.
    """
    if wins_N.ndim != 1 or wins_N.shape != length_difference_N.shape or not len(wins_N):
        raise ValueError("wins and length differences must be (N,) with N > 0")
    difference = length_difference_N.detach().double().cpu()
    wins = wins_N.detach().double().cpu()
    spread = float(difference.std()) if len(difference) > 1 else 0.0
    if not spread > 0:
        return win_rate(wins, groups)
    length_N = torch.tanh(difference / spread)
    number = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    group_N = torch.tensor([number[name] for name in groups])
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, MOST_NUMBERS // len(wins))
    found = []
    for first in range(0, resamples, at_once):
        count = min(at_once, resamples - first)
        drawn = torch.randint(len(number), (count, len(number)), generator=generator)
        times = torch.zeros(count, len(number), dtype=torch.float64)
        times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        found.append(_wins_at_equal_length(length_N, wins, times[:, group_N]))
    low, high = torch.quantile(
        torch.cat(found), torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    value = float(_wins_at_equal_length(length_N, wins, torch.ones_like(wins)[None])[0])
    return Interval(min(low, value), value, max(high, value))


def _wins_at_equal_length(length_N: Tensor, wins_N: Tensor, times_RN: Tensor) -> Tensor:
    """Fit R regressions by Newton's method; return (R,) probabilities at zero difference.

    ``times_RN`` is how often each contest counts in each of them.
    """
    theta_R, phi_R = torch.zeros(2, len(times_RN), dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        p_RN = torch.sigmoid(theta_R[:, None] + phi_R[:, None] * length_N)
        error_RN = times_RN * (p_RN - wins_N)
        slope_theta = error_RN.sum(dim=1) + RIDGE_INTERCEPT * theta_R
        slope_phi = error_RN @ length_N + RIDGE * phi_R
        curve_RN = times_RN * p_RN * (1 - p_RN)
        theta_theta = curve_RN.sum(dim=1) + RIDGE_INTERCEPT
        theta_phi = curve_RN @ length_N
        phi_phi = curve_RN @ length_N.square() + RIDGE
        determinant = theta_theta * phi_phi - theta_phi.square()
        # a step of Newton's may overshoot where the curve is flat; the loss is convex
        step_theta = (phi_phi * slope_theta - theta_phi * slope_phi) / determinant
        step_phi = (theta_theta * slope_phi - theta_phi * slope_theta) / determinant
        theta_R = theta_R - step_theta.clamp(-2.0, 2.0)
        phi_R = phi_R - step_phi.clamp(-2.0, 2.0)
        if float(torch.maximum(step_theta.abs(), step_phi.abs()).max()) < 1e-9:
            break
    return torch.sigmoid(theta_R)
