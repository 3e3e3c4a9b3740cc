"""What the correction buys: three control weights on one probe, and labels for computation.

Shapes: N = prompts of the probe.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from vrpo.diagnostics.variance import VarianceRatio, leave_one_out, predicted_variance_ratio


@dataclass(frozen=True)
class WeightComparison:
    """The predicted variance over DPO's at several control weights, on the same prompts."""

    used: float
    """The control weight of the run."""
    best: float
    """Least squares on this probe, in [0, 1]."""
    weights: tuple[float, ...]
    """0 (DPO), the weight of the run, the best, 1 (the paper); each once, ascending."""
    ratios: tuple[VarianceRatio, ...]
    """One for each of ``weights``."""
    loss_of_used: float
    """Ratio of the run's weight minus that of the best one."""
    loss_se: float
    """Standard error of that difference (jackknife)."""
    alarm: bool
    """Another weight would have been visibly better."""
    meaning: str


@dataclass(frozen=True)
class LabelGain:
    """What the labels are worth under VRPO, and what that costs."""

    gain: float
    """n labels are worth this many times n under DPO."""
    low: float
    """The gain at two standard errors above the variance ratio."""
    high: float
    cost: float
    """Computation over DPO's."""
    gain_per_cost: float
    """Labels' worth for a GPU hour over DPO's: below 1, DPO on more labels is the better use of
    the machine, if there are more labels."""
    alarm: bool
    """The computation bought nothing visible."""
    meaning: str


def compare_weights(a: Tensor, d: Tensor, *, control_weight: float) -> WeightComparison:
    """Compare DPO, the run's weight, the best weight and the paper's on statistics of a probe.

    ``a`` and ``d``, (N,) or (N, Q), and what is raised are those of ``predicted_variance_ratio``.
    The best weight is fitted to the same prompts, so that ``loss_of_used`` is never below zero.
    """
    a, d = a.detach().double(), d.detach().double()
    spread = float(d.square().sum())
    covariance = float(((a - a.mean(dim=0)) * d).sum())
    best = min(1.0, max(0.0, covariance / spread)) if spread > 0 else 0.0
    weights = tuple(sorted({0.0, control_weight, best, 1.0}))
    ratios = tuple(predicted_variance_ratio(a, d, control_weight=weight) for weight in weights)
    used_top, best_top, bottom = (
        leave_one_out(a - weight * d) for weight in (control_weight, best, 0.0)
    )
    difference = (used_top - best_top) / bottom
    replicas, n = difference[1:], len(a)
    error = math.sqrt((n - 1) / n * float((replicas - replicas.mean()).square().sum()))
    loss = float(difference[0])
    alarm = loss > 2 * error and loss > 0.02
    return WeightComparison(
        used=control_weight,
        best=best,
        weights=weights,
        ratios=ratios,
        loss_of_used=loss,
        loss_se=error,
        alarm=alarm,
        meaning=(
            f"A control weight of {best:.2f} instead of {control_weight:.2f} would lower the "
            f"variance by {loss:.2f} of DPO's: use auto."
            if alarm
            else "No other control weight would have been visibly better."
        ),
    )


def label_gain(
    ratio: VarianceRatio, *, samples: int, measured_cost: float | None = None
) -> LabelGain:
    """Return what labels are worth, for K ``samples`` a prompt.

    The cost is that of the training step, (K + 2) / 2 sequences for one of DPO's, unless measured
    (seconds over DPO's seconds, sampling and scoring included). Raises ValueError for a cost that
    is not positive.
    """
    cost = (samples + 2) / 2 if measured_cost is None else measured_cost
    if not cost > 0:
        raise ValueError(f"measured_cost must be positive, got {cost}")
    low, high = (_inverse(ratio.ratio + side * ratio.standard_error) for side in (2.0, -2.0))
    alarm = samples > 0 and low <= 1
    gain = ratio.label_gain
    if alarm:
        meaning = (
            f"{cost:.1f} times the computation of DPO bought no visible gain: use DPO, or a "
            "better preference model."
        )
    else:
        meaning = (
            f"100 labels do the work of {100 * gain:.0f} under DPO, at {cost:.1f} times the "
            "computation."
        )
    return LabelGain(gain, low, high, cost, gain / cost, alarm, meaning)


def _inverse(ratio: float) -> float:
    return 1 / ratio if ratio > 0 else math.inf
