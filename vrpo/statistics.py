"""Intervals for reported numbers: Wilson for shares, bootstrap for means over groups."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """An estimate between its limits."""

    low: float
    value: float
    high: float


def wilson_interval(wins: float, total: float, *, confidence: float = 0.95) -> Interval:
    """Return the Wilson score interval of a share (Wilson 1927); ties may count as half a win.

    Raises ValueError unless ``0 <= wins <= total``, ``total > 0`` and ``0 < confidence < 1``.
    """
    if not total > 0 or not 0 <= wins <= total:
        raise ValueError(f"need 0 <= wins <= total and total > 0, got {wins} of {total}")
    z = normal_quantile((1 + _checked(confidence)) / 2)
    share = wins / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2)
    return Interval(max(0.0, center - half), share, min(1.0, center + half))


def bootstrap_interval(
    values: Tensor,
    *,
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return the percentile bootstrap interval of the mean of ``values`` (N,).

    With ``groups`` whole groups are drawn (all rows of a prompt together). Raises ValueError for no
    values.
    """
    _checked(confidence)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values must be (N,) with N > 0, got {tuple(values.shape)}")
    values = values.detach().double().cpu()
    if groups is not None:
        if len(groups) != len(values):
            raise ValueError(f"groups must have {len(values)} entries, got {len(groups)}")
        number = {name: index for index, name in enumerate(dict.fromkeys(groups))}
        index = torch.tensor([number[name] for name in groups])
        totals = torch.zeros(len(number), dtype=torch.float64).index_add_(0, index, values)
        counts = torch.bincount(index, minlength=len(number)).double()
    else:
        totals, counts = values, torch.ones_like(values)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for _ in range(resamples):
        drawn = torch.randint(len(totals), (len(totals),), generator=generator)
        means.append(totals[drawn].sum() / counts[drawn].sum())
    tail = (1 - confidence) / 2
    low, high = torch.quantile(
        torch.stack(means), torch.tensor([tail, 1 - tail], dtype=torch.float64)
    ).tolist()
    return Interval(low, float(values.mean()), high)


def normal_quantile(probability: float) -> float:
    """Return the standard normal quantile."""
    return float(torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)))


def normal_tail(z: float) -> float:
    """Return the probability that a standard normal is farther from zero than ``z``."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_squared_tail(value: float, degrees: int) -> float:
    """Return the probability that chi squared with ``degrees`` of freedom exceeds ``value``."""
    half = torch.tensor([degrees / 2, max(value, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return confidence
