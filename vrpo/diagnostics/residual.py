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
from vrpo.statistics import normal_tail

ALARM_Z: Final = 4.0
LEAKAGE_RATIO: Final = 0.5
"""Residual variance below this share of p (1 - p) is leakage, if also far in standard errors."""
MEMORISED: Final = 0.02
"""Mean p (1 - p) below this, with nearly every label hit, is a model that knows the labels."""

SLICE_P_VALUE: Final = 0.01
GAP_LIMIT: Final = 0.1
"""Nats by which unseen labels may cost more than seen ones."""


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
    """Far too small. A model that is far too unsure gives that too: see its temperature."""
    overconfident: bool
    """Too large."""
    alarm: bool
    meaning: str
    underconfident: bool = False
    """Too small, and not by so much that only knowing the labels would do it."""


def is_hard(label_N: Tensor) -> Tensor:
    """Return (N,) True for labels of 0 or 1: single votes, which ``residual_check`` is for."""
    return (label_N == 0) | (label_N == 1)


def residual_check(label_N: Tensor, preference_N: Tensor) -> ResidualCheck:
    """Compare the residuals of hard labels with the model's own probabilities.

    Soft labels vary less than hard ones and look like leakage: keep ``is_hard`` alone. Raises
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
    underconfident = not leakage and score < -ALARM_Z
    if leakage:
        meaning = (
            "The preference model knows the labels it judges: cross-fit it by prompt, or the loss "
            "is biased towards the noise of the labels."
        )
    elif overconfident:
        meaning = "The preference model is over-confident: refit its temperature on held-out pairs."
    elif underconfident:
        meaning = (
            "The preference model is under-confident, or has seen some of the labels it judges: "
            "refit its temperature on held-out pairs, and cross-fit it by prompt."
        )
    else:
        meaning = "The labels vary about as much as the preference model says."
    alarm = leakage or overconfident or underconfident
    return ResidualCheck(
        observed, promised, score, leakage, overconfident, alarm, meaning, underconfident
    )


@dataclass(frozen=True)
class ResidualSlice:
    """Whether labels favour a feature more or less than the preference model says."""

    feature: str
    residual: float
    """Mean of z - p for the completion that has more of the feature."""
    z: float
    p_value: float
    alarm: bool
    meaning: str


@dataclass(frozen=True)
class FoldGap:
    """Cross-entropy on labels that the preference model has not seen, minus that on its own."""

    gap: float
    """In nats."""
    standard_error: float
    overfit: bool
    underfit: bool
    """It does not visibly better than a coin even on its own labels."""
    alarm: bool
    meaning: str


def residual_slice(
    feature: str, label_N: Tensor, preference_N: Tensor, difference_N: Tensor
) -> ResidualSlice:
    """Average the residual z - p over pairs, turned towards the completion with more of a feature.

    ``difference_N`` is the feature of the first completion minus that of the second (length,
    log-prob, a class of prompts that favours neither side is 0); only its sign counts, and pairs
    where it is 0 are left out. Does not depend on which completion of a pair is called the first.
    Alarms in 1 % of cases where p is right. Raises ValueError where no pair is left or shapes
    differ, NumericalError for values that are not finite.
    """
    if not label_N.shape == preference_N.shape == difference_N.shape or label_N.ndim != 1:
        raise ValueError("labels, preferences and differences must be (N,), of one length")
    z, p = label_N.detach().double(), preference_N.detach().double()
    if not bool(torch.isfinite(z).all() & torch.isfinite(p).all()):
        raise NumericalError("labels or predicted preferences are not finite")
    side = torch.sign(difference_N.detach().double())
    kept = side != 0
    if not bool(kept.any()):
        raise ValueError(f"no pair differs in its {feature}")
    turned = ((z - p) * side)[kept]
    # by what p promises, so that one rare pair cannot hide the error
    promised = float((p * (1 - p))[kept].sum())
    error = max(math.sqrt(promised), 1e-12) / len(turned)
    mean = float(turned.mean())
    score = mean / error
    p_value = normal_tail(score)
    alarm = p_value < SLICE_P_VALUE
    more = "more" if mean > 0 else "less"
    return ResidualSlice(
        feature=feature,
        residual=mean,
        z=score,
        p_value=p_value,
        alarm=alarm,
        meaning=(
            f"Labels favour {feature} {more} than the preference model says, by {abs(mean):.2f}."
            if alarm
            else f"The preference model gives {feature} the weight that the labels give it."
        ),
    )


def fold_gap(label_N: Tensor, seen_N: Tensor, unseen_N: Tensor) -> FoldGap:
    """Compare the losses of probabilities by models that saw a pair's label and that did not.

    Over-fitting costs variance and does not bias the loss as long as only ``unseen_N`` is used. It
    alarms when the gap is visibly above ``GAP_LIMIT``. Raises ValueError for fewer than 2 pairs or
    shapes that differ, NumericalError for values that are not finite.
    """
    if not label_N.shape == seen_N.shape == unseen_N.shape or label_N.ndim != 1:
        raise ValueError("labels and preferences must be (N,), of one length")
    if len(label_N) < 2:
        raise ValueError(f"the gap between folds needs at least 2 pairs, got {len(label_N)}")
    label = label_N.detach().double()
    seen, unseen = (_cross_entropy(values, label) for values in (seen_N, unseen_N))
    if not bool(torch.isfinite(seen).all() & torch.isfinite(unseen).all()):
        raise NumericalError("labels or predicted preferences are not finite")
    difference = unseen - seen
    gap = float(difference.mean())
    error, seen_error = (
        float(values.std()) / math.sqrt(len(values)) for values in (difference, seen)
    )
    overfit = gap - 2 * error > GAP_LIMIT
    underfit = not overfit and float(seen.mean()) + 2 * seen_error > math.log(2)
    if overfit:
        meaning = (
            f"The preference model does {gap:.2f} nats worse on labels it has not seen: fewer "
            "epochs, more weight decay, a smaller head, or more labels."
        )
    elif underfit:
        meaning = (
            "The preference model does not visibly better than a coin even on its own labels: more "
            "epochs, another backbone, or a judge."
        )
    else:
        meaning = "The preference model does about as well on labels it has not seen."
    return FoldGap(gap, error, overfit, underfit, overfit or underfit, meaning)


def _cross_entropy(preference_N: Tensor, label_N: Tensor) -> Tensor:
    p = preference_N.detach().double().clamp(1e-12, 1 - 1e-12)
    return -(label_N * p.log() + (1 - label_N) * torch.log1p(-p))
