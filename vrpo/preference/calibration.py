"""Calibration of predicted preferences: one temperature, expected error, reliability curve.

A pair can be written either way round, so everything here treats (logit, label) and (-logit,
1 - label) alike: no intercept, and bins over the confidence in the preferred side.

Shapes: N = pairs.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.statistics import wilson_interval

TEMPERATURE_RANGE: Final = (0.01, 100.0)
"""Beyond these the predictions are certain, or say nothing; a model that is worse than a coin gets
the upper end."""
_BISECTIONS: Final = 80


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs of similar confidence: what was predicted, and how often it came true."""

    predicted: float
    """Mean confidence in the side that the model prefers, in [0.5, 1]."""
    observed: float
    """Mean label of that side."""
    count: int
    low: float
    """Lower limit of the 95 % Wilson interval of ``observed``."""
    high: float


def fit_temperature(
    logits_N: Tensor,
    label_N: Tensor,
    *,
    weight: Tensor | None = None,
    prior_pairs: float = 0.0,
) -> float:
    """Return the T > 0 that minimises the cross-entropy of ``sigmoid(logits / T)``.

    ``prior_pairs`` draws T towards 1: as many pairs are added as if their labels were what the
    logits say. Limited to ``TEMPERATURE_RANGE``. Raises ValueError for shapes that differ or no
    pairs, NumericalError for logits that are not finite.
    """
    logits_N, label_N = _checked(logits_N, label_N)
    weight_N = torch.ones_like(logits_N) if weight is None else weight.detach().to(logits_N)
    share = prior_pairs / (len(logits_N) + prior_pairs)
    label_N = (1 - share) * label_N + share * torch.sigmoid(logits_N)

    def slope(inverse: float) -> float:
        error_N = torch.sigmoid(inverse * logits_N) - label_N
        return float((weight_N * error_N * logits_N).sum())

    # the loss is convex in 1 / T, so its slope changes sign once
    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    if slope(low) >= 0:
        return TEMPERATURE_RANGE[1]
    if slope(high) <= 0:
        return TEMPERATURE_RANGE[0]
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        if slope(middle) < 0:
            low = middle
        else:
            high = middle
    return 1 / math.sqrt(low * high)


def reliability_curve(
    logits_N: Tensor, label_N: Tensor, *, bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Return the bins that hold a pair, of equal width over the confidence from 0.5 to 1.

    Raises as ``fit_temperature`` does, and ValueError for fewer than 1 bin.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    logits_N, label_N = _checked(logits_N, label_N)
    confidence_N = torch.sigmoid(logits_N.abs())
    outcome_N = torch.where(logits_N >= 0, label_N, 1 - label_N)
    index_N = ((confidence_N - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    curve = []
    for index in range(bins):
        inside = index_N == index
        count = int(inside.sum())
        if count:
            limits = wilson_interval(float(outcome_N[inside].sum().clamp(0, count)), count)
            curve.append(
                ReliabilityBin(
                    predicted=float(confidence_N[inside].mean()),
                    observed=limits.value,
                    count=count,
                    low=limits.low,
                    high=limits.high,
                )
            )
    return tuple(curve)


def expected_calibration_error(logits_N: Tensor, label_N: Tensor, *, bins: int = 10) -> float:
    """Return the mean over pairs of |predicted - observed| of their bin (ECE)."""
    curve = reliability_curve(logits_N, label_N, bins=bins)
    total = sum(part.count for part in curve)
    return sum(part.count * abs(part.predicted - part.observed) for part in curve) / total


def pair_accuracy(logits_N: Tensor, label_N: Tensor) -> float:
    """Return the share of untied pairs whose sign is right; a logit of 0 counts half."""
    logits_N, label_N = _checked(logits_N, label_N)
    untied = label_N != 0.5
    right = torch.sign(logits_N) * torch.sign(label_N - 0.5)
    return float((right[untied] + 1).mean() / 2) if bool(untied.any()) else 0.5


def _checked(logits_N: Tensor, label_N: Tensor) -> tuple[Tensor, Tensor]:
    if logits_N.ndim != 1 or logits_N.shape != label_N.shape or not len(logits_N):
        raise ValueError(
            "logits and labels must be (N,) with N > 0, got "
            f"{tuple(logits_N.shape)} and {tuple(label_N.shape)}"
        )
    if not bool(torch.isfinite(logits_N).all()):
        raise NumericalError("the logits of the preference model are not finite")
    return logits_N.detach().double(), label_N.detach().double()
