"""Whether the preference model has seen the labels it judges, or is sure of what it does not know.

For honest probabilities p of labels z the mean of (z - p)^2 is the mean of p (1 - p). Far less
means that the model knows these labels (leakage); far more, that it is over-confident.

Shapes: N = pairs.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError

ALARM_Z: Final = 4.0
LEAKAGE_RATIO: Final = 0.5
"""Residual variance below this share of p (1 - p) is leakage, if also far in standard errors."""
MEMORISED: Final = 0.02
"""Mean p (1 - p) below this, with nearly every label hit, is a model that knows the labels."""


@dataclass(frozen=True)
class ResidualCheck:
    """Residual variance of the labels against what the preference model promises."""

    observed: float
    """Mean of (z - p)^2."""
    promised: float
    """Mean of p (1 - p)."""
    z: float
    """Their difference in standard errors; negative means residuals too small."""
    leakage: bool
    overconfident: bool
    alarm: bool
    meaning: str


def residual_check(label_N: Tensor, preference_N: Tensor) -> ResidualCheck:
    """Compare the residuals of hard labels with the model's own probabilities.

    Soft labels vary less than hard ones and look like leakage: pass votes, not means. Raises
    ValueError for no pairs or shapes that differ, NumericalError for values that are not finite.
    """
    if label_N.shape != preference_N.shape or label_N.ndim != 1 or not len(label_N):
        raise ValueError("labels and preferences must be (N,) with N > 0")
    z, p = label_N.detach().double(), preference_N.detach().double()
    if not bool(torch.isfinite(z).all() & torch.isfinite(p).all()):
        raise NumericalError("labels or predicted preferences are not finite")
    observed_N, promised_N = (z - p).square(), p * (1 - p)
    observed, promised = float(observed_N.mean()), float(promised_N.mean())
    # under honest p, Var (z - p)^2 = p (1 - p) (1 - 2p)^2 given p
    error = math.sqrt(float((promised_N * (1 - 2 * p).square()).sum())) / len(z)
    difference = observed - promised
    # a model that is certain of every pair has no error to measure by: one wrong label refutes it
    score = difference / error if error > 0 else math.inf if difference > 0 else 0.0
    memorised = promised < MEMORISED and observed < MEMORISED
    leakage = memorised or (score < -ALARM_Z and observed < LEAKAGE_RATIO * promised)
    overconfident = not leakage and score > ALARM_Z
    if leakage:
        meaning = (
            "The preference model knows the labels it judges: cross-fit it by prompt, or the loss "
            "is biased towards the noise of the labels."
        )
    elif overconfident:
        meaning = "The preference model is over-confident: refit its temperature on held-out pairs."
    else:
        meaning = "The labels vary about as much as the preference model says."
    alarm = leakage or overconfident
    return ResidualCheck(observed, promised, score, leakage, overconfident, alarm, meaning)
