"""Whether the preference model's probabilities come true on labels that it has not seen.

A pair can be written either way round, so every number treats (logit, label) and (-logit, 1 -
label) alike. ``order_check`` is for models that do not: judges that are shown one completion first.

Shapes: N = pairs.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.preference.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    fit_temperature,
    pair_accuracy,
    reliability_curve,
)
from vrpo.statistics import Interval, chi_squared_tail, normal_tail, wilson_interval

TEMPERATURES: Final = (0.5, 2.0)
"""A remaining temperature that is visibly outside of these alarms."""
ALARM_Z: Final = 2.0
ALARM_P_VALUE: Final = 0.01
POSITION_LIMIT: Final = 0.05
"""Mean advantage, in probability, of being shown first that alarms, if also visible."""


@dataclass(frozen=True)
class CalibrationCheck:
    """How good the probabilities are, on pairs whose labels the model has not seen."""

    accuracy: Interval | None
    """Share of labels foretold (95 %, Wilson); None where every label is a tie."""
    nll: float
    """Mean cross-entropy in nats; log 2 = 0.693 is a coin."""
    nll_se: float
    ece: float
    """Expected calibration error: mean of |predicted - observed| over bins. Above 0 by chance."""
    reliability: tuple[ReliabilityBin, ...]
    bins_p_value: float | None
    """Of honest probabilities missing their bins by as much; None where a label is soft."""
    temperature: float
    """What the logits would still have to be divided by; 1 is calibrated."""
    gain_ceiling: float
    """Mean of (2p - 1)^2: about the largest share of the gradient's variance VRPO can remove."""
    overconfident: bool
    """The temperature is visibly above 2."""
    underconfident: bool
    """The temperature is visibly below 1/2."""
    useless: bool
    """The cross-entropy is visibly above a coin's."""
    alarm: bool
    """One of the three above. The bins alone do not alarm: with many labels every model misses."""
    meaning: str


@dataclass(frozen=True)
class OrderCheck:
    """What swapping the two completions does to a judge's answer."""

    antisymmetry_error: float
    """Mean of |p(first order) + p(second order) - 1|: 0 for a model that is antisymmetric."""
    position_bias: float
    """Half the mean of p(first order) + p(second order) - 1: above 0, being shown first helps."""
    z: float
    p_value: float
    alarm: bool
    meaning: str


def calibration_check(logits_N: Tensor, label_N: Tensor, *, bins: int = 10) -> CalibrationCheck:
    """Compare logits of "the first is preferred" with labels in [0, 1].

    The logits must come from models that did not see these labels (``CrossFitted.logits``). An
    alarm needs two standard errors: at the limit itself it comes in 2.3 % of cases. Raises
    ValueError for shapes that differ or no pairs, NumericalError for logits that are not finite.
    """
    curve = reliability_curve(logits_N, label_N, bins=bins)
    logits, label = logits_N.detach().double(), label_N.detach().double()
    losses = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    nll, error = float(losses.mean()), _error(losses)
    untied = int((label != 0.5).sum())
    accuracy = wilson_interval(pair_accuracy(logits, label) * untied, untied) if untied else None
    # the slope of the loss in 1 / T at a limit says on which side of it the best T lies
    over, under = (_score(logits, label, temperature) for temperature in TEMPERATURES[::-1])
    overconfident, underconfident = over > ALARM_Z, under < -ALARM_Z
    useless = nll - ALARM_Z * error > math.log(2)
    temperature = fit_temperature(logits, label)
    return CalibrationCheck(
        accuracy=accuracy,
        nll=nll,
        nll_se=error,
        ece=expected_calibration_error(logits, label, bins=bins),
        reliability=curve,
        bins_p_value=_bins_p_value(logits, label, bins),
        temperature=temperature,
        gain_ceiling=float((2 * torch.sigmoid(logits) - 1).square().mean()),
        overconfident=overconfident,
        underconfident=underconfident,
        useless=useless,
        alarm=overconfident or underconfident or useless,
        meaning=_meaning(overconfident, underconfident, useless, temperature, nll),
    )


def order_check(shown_first_N: Tensor, shown_second_N: Tensor) -> OrderCheck:
    """Compare a judge's probabilities of one completion, shown first and shown second.

    ``shown_first_N`` is the probability of completion A when A is shown first, ``shown_second_N``
    of completion A when it is shown second. Their mean is free of the bias; that is what ought to
    be used. Raises ValueError for shapes that differ or fewer than 2 pairs, NumericalError for
    values that are not finite.
    """
    if shown_first_N.shape != shown_second_N.shape or shown_first_N.ndim != 1:
        raise ValueError("the answers of both orders must be (N,), of one length")
    if len(shown_first_N) < 2:
        raise ValueError(f"the order check needs at least 2 pairs, got {len(shown_first_N)}")
    gap = shown_first_N.detach().double() - shown_second_N.detach().double()
    if not bool(torch.isfinite(gap).all()):
        raise NumericalError("the judge's probabilities are not finite")
    mean, error = float(gap.mean()) / 2, _error(gap) / 2
    z = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    p_value = normal_tail(z)
    alarm = p_value < ALARM_P_VALUE and abs(mean) > POSITION_LIMIT
    place = "first" if mean > 0 else "second"
    return OrderCheck(
        antisymmetry_error=float(gap.abs().mean()),
        position_bias=mean,
        z=z,
        p_value=p_value,
        alarm=alarm,
        meaning=(
            f"The judge gives {abs(mean):.2f} to whatever is shown {place}: ask in both orders "
            "and take the mean, or use another judge."
            if alarm
            else "Which completion is shown first makes no large difference to the judge."
        ),
    )


def _score(logits: Tensor, label: Tensor, temperature: float) -> float:
    """Return the slope of the loss in 1 / T at this T in standard errors; above 0, T is larger."""
    slopes = (torch.sigmoid(logits / temperature) - label) * logits
    error = _error(slopes)
    mean = float(slopes.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def _bins_p_value(logits: Tensor, label: Tensor, bins: int) -> float | None:
    """Return the p-value of the bins' outcomes (Hosmer and Lemeshow 1980, nothing fitted)."""
    if not bool(((label == 0) | (label == 1)).all()):
        return None
    confidence = torch.sigmoid(logits.abs())
    outcome = torch.where(logits >= 0, label, 1 - label)
    place = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    zeros = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    difference = zeros.index_add(0, place, outcome - confidence)
    variance = zeros.index_add(0, place, confidence * (1 - confidence))
    # a bin whose expected number of exceptions is below one is no normal number
    large = variance >= 1
    if not bool(large.any()):
        return 1.0
    statistic = float((difference[large].square() / variance[large]).sum())
    return chi_squared_tail(statistic, int(large.sum()))


def _error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _meaning(over: bool, under: bool, useless: bool, temperature: float, nll: float) -> str:
    if useless:
        return (
            f"The preference model is worse than a coin ({nll:.2f} nats against 0.69): give it "
            "more labels or another backbone, fit its temperature, or use a judge."
        )
    if over or under:
        what = "over" if over else "under"
        return (
            f"The preference model is {what}-confident: its logits would still have to be divided "
            f"by {temperature:.2g}; fit its temperature on held-out pairs."
        )
    return "The preference model's probabilities come true about as often as they say."
