"""What the estimate of the control weight says about the preference model.

An estimate with a large standard error says nothing unless it is far above 0. Near 0 the preference
model tells nothing about the labels. Near 1 with one unpooled pair it tells too much: even true
preferences have a best weight of 1/2 there, so that the labels must have been seen. The estimate
goes to 1 for a preference model that was fitted to the labels it judges, and so does not protect
against it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALARM_Z: Final = 2.0
LARGE_ERROR: Final = 0.25
"""Two standard errors of this to either side are as wide as all that lambda can be, 0 to 1."""
CLEAR_Z: Final = 3.0
"""Such an estimate is above 0 by so many of them or not determined: with few prompts the standard
error is itself too small."""
NEAR_ONE: Final = 0.75
"""Half way from the best weight of true preferences to that of known labels, at one pair."""


@dataclass(frozen=True)
class ControlWeightCheck:
    """The estimate, where it is going, and what it gives away."""

    estimate: float
    standard_error: float
    trend: float
    """Mean of the last quarter of the history minus mean of the first; 0 without history."""
    undetermined: bool
    """The error is large, and the estimate not far above 0: it could be nearly anything."""
    useless: bool
    """The estimate is determined, and not visibly above 0."""
    leakage: bool
    """The labels are known to the preference model, by the estimate or by the residuals."""
    alarm: bool
    meaning: str


def control_weight_check(
    estimate: float,
    standard_error: float,
    *,
    samples: int,
    pool: bool,
    history: Sequence[float] = (),
    residuals_leak: bool = False,
) -> ControlWeightCheck:
    """Judge ``ControlWeight.estimate`` and its ``standard_error``.

    ``history`` is the estimate over the run, oldest first; ``residuals_leak`` is
    ``ResidualCheck.leakage``. Where the best weight is 0 and the error is small, ``useless`` is the
    answer in all but 2.3 % of cases. Raises ValueError for numbers that are not finite or a
    negative error.
    """
    if not (math.isfinite(estimate) and math.isfinite(standard_error) and standard_error >= 0):
        raise ValueError(
            f"estimate and standard error must be finite, got {estimate} and {standard_error}"
        )
    quarter = max(1, len(history) // 4)
    trend = 0.0
    if len(history) > 1:
        trend = (sum(history[-quarter:]) - sum(history[:quarter])) / quarter
    one_pair = samples == 2 and not pool
    too_good = one_pair and estimate - ALARM_Z * standard_error > NEAR_ONE
    leakage = too_good or residuals_leak
    is_vague = standard_error > LARGE_ERROR
    undetermined = not leakage and is_vague and estimate <= CLEAR_Z * standard_error
    useless = not (leakage or undetermined) and estimate - ALARM_Z * standard_error <= 0
    if undetermined:
        meaning = (
            f"Lambda is not determined: {estimate:.2f} with a standard error of "
            f"{standard_error:.2f}, so it could be nearly anything from 0 to 1; read nothing into "
            "it, and give more labels."
        )
    elif leakage:
        meaning = (
            "The preference model knows the labels it judges: cross-fit it by prompt, or the loss "
            "is biased towards their noise, whatever the control weight."
        )
    elif useless:
        meaning = (
            "The preference model takes no visible noise away, so the best lambda is not visibly "
            "above 0: better the preference model, or use DPO and save the samples."
        )
    elif is_vague:
        meaning = (
            "The best control weight is above 0, and not known better than as "
            f"{max(0.0, estimate - ALARM_Z * standard_error):.2f} to "
            f"{min(1.0, estimate + ALARM_Z * standard_error):.2f}: the correction helps."
        )
    else:
        meaning = f"The best control weight is about {estimate:.2f}: the correction helps."
    return ControlWeightCheck(
        estimate=estimate,
        standard_error=standard_error,
        trend=trend,
        undetermined=undetermined,
        useless=useless,
        leakage=leakage,
        alarm=undetermined or useless or leakage,
        meaning=meaning,
    )
