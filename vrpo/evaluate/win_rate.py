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
    design_N2 = torch.stack([torch.ones_like(wins), torch.tanh(difference / spread)], dim=1)
    number = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    group_N = torch.tensor([number[name] for name in groups])
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(resamples):
        drawn = torch.randint(len(number), (len(number),), generator=generator)
        times_N = torch.bincount(drawn, minlength=len(number)).double()[group_N]
        found.append(_win_at_equal_length(design_N2, wins, times_N))
    low, high = torch.quantile(
        torch.tensor(found, dtype=torch.float64), torch.tensor([0.025, 0.975], dtype=torch.float64)
    ).tolist()
    value = _win_at_equal_length(design_N2, wins, torch.ones_like(wins))
    return Interval(min(low, value), value, max(high, value))


def _win_at_equal_length(design_N2: Tensor, wins_N: Tensor, times_N: Tensor) -> float:
    """Fit the regression by Newton's method and return the probability at zero difference."""
    penalty = torch.tensor([RIDGE_INTERCEPT, RIDGE], dtype=torch.float64)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        p_N = torch.sigmoid(design_N2 @ weights)
        slope = design_N2.T @ (times_N * (p_N - wins_N)) + penalty * weights
        curve = design_N2.T @ (design_N2 * (times_N * p_N * (1 - p_N))[:, None])
        step = torch.linalg.solve(curve + torch.diag(penalty), slope)
        # a step of Newton's may overshoot where the curve is flat; the loss is convex
        weights = weights - step.clamp(-2.0, 2.0)
        if float(step.abs().max()) < 1e-9:
            break
    return float(torch.sigmoid(weights[0]))
