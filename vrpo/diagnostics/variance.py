"""Whether the correction reduces the variance of the gradient, and what more samples would do.

Shapes: N = prompts, K = draws of a prompt.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError

MIN_PROMPTS: Final = 8
TARGET_SHARE: Final = 0.9
"""The suggested K keeps this share of the gain that infinitely many samples would give."""
MAX_SUGGESTED: Final = 64


@dataclass(frozen=True)
class VarianceRatio:
    """Variance of the gradient along probed directions over that of DPO."""

    ratio: float
    standard_error: float
    """Jackknife over prompts."""
    label_gain: float
    """1 / ratio: n labels are worth this many times n labels of DPO."""
    alarm: bool
    """The ratio is above 1 by two standard errors: the correction does harm."""
    meaning: str


@dataclass(frozen=True)
class MonteCarloError:
    """How much noise the finite number of samples adds, and how many would be enough."""

    rho: float
    """Share of the variance of one pair that comes from either completion, in [0, 1/2]."""
    noise_share: float
    """Variance of the reference term over that of the correction D."""
    standard_error: float
    """Root mean square standard error of the reference term of one prompt."""
    suggested_samples: int
    """Least K with nine tenths of the gain of infinitely many samples."""
    alarm: bool
    meaning: str


def predicted_variance_ratio(a: Tensor, d: Tensor, *, control_weight: float) -> VarianceRatio:
    """Return ``sum (a - mean - lambda d)^2 / sum (a - mean)^2`` for statistics (N,) of a probe set.

    ``a`` and ``d`` are those of ``vrpo.control.control_statistics``. Raises ValueError for too few
    prompts or no variance, NumericalError for values that are not finite.
    """
    a, d = a.detach().double(), d.detach().double()
    if a.ndim != 1 or a.shape != d.shape or len(a) < MIN_PROMPTS:
        raise ValueError(f"a and d must be (N,) with at least {MIN_PROMPTS} prompts")
    if not bool(torch.isfinite(a).all() & torch.isfinite(d).all()):
        raise NumericalError("the statistics of the variance ratio are not finite")
    g = a - control_weight * d
    top, bottom = _leave_one_out(g), _leave_one_out(a)
    if not float(bottom[0]) > 0:
        raise ValueError("the gradient of DPO does not vary along the probed direction")
    ratio = float(top[0] / bottom[0])
    replicas = top[1:] / bottom[1:]
    n = len(a)
    error = math.sqrt((n - 1) / n * float((replicas - replicas.mean()).square().sum()))
    alarm = ratio - 2 * error > 1
    gain = 1 / ratio if ratio > 0 else math.inf
    if alarm:
        meaning = (
            f"The correction raises the variance to {ratio:.2f} of DPO's: lower the control "
            "weight or better the preference model."
        )
    elif ratio + 2 * error < 1:
        meaning = f"The correction makes these labels worth {gain:.2f} times as many under DPO."
    else:
        meaning = "The correction changes the variance by less than the error of this estimate."
    return VarianceRatio(ratio, error, gain, alarm, meaning)


def reference_term_error(
    pair_values_NKK: Tensor, *, labelled_pair_variance: float | None = None, pool: bool = True
) -> MonteCarloError:
    """Return the Monte-Carlo error of the mean over all pairs of K draws (method: U-statistics).

    ``pair_values_NKK`` [n, j, k] is symmetric in j and k: the change or loss that the pair (j, k)
    contributes; K >= 3. For ``pool`` K counts the labelled completions too. The variance of the
    labelled pair's value is taken equal to that of a sampled pair unless given. Raises ValueError
    for K < 3.
    """
    values = pair_values_NKK.detach().double()
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] < 3:
        raise ValueError(f"pair values must be (N, K, K) with K >= 3, got {tuple(values.shape)}")
    zeta_1, zeta_2 = _pair_variances(values)
    labelled = zeta_2 if labelled_pair_variance is None else labelled_pair_variance
    k = values.shape[1]
    rho = min(0.5, max(0.0, zeta_1 / zeta_2)) if zeta_2 > 0 else 0.0
    noise = _share(rho, k) * zeta_2
    spread = labelled - noise if pool else labelled + noise
    noise_share = noise / spread if spread > 0 else 0.0
    extra = 2 if pool else 0
    suggested = next(
        (
            samples
            for samples in range(2 if not pool else 1, MAX_SUGGESTED)
            if _share(rho, samples + extra) <= 1 - TARGET_SHARE
        ),
        MAX_SUGGESTED,
    )
    alarm = suggested > 2 * max(1, k - extra)
    return MonteCarloError(
        rho=rho,
        noise_share=noise_share,
        standard_error=math.sqrt(max(noise, 0.0)),
        suggested_samples=suggested,
        alarm=alarm,
        meaning=(
            f"{k - extra} samples a prompt keep {1 - _share(rho, k):.0%} of the possible gain; "
            f"{suggested} keep {TARGET_SHARE:.0%}."
        ),
    )


def _leave_one_out(values: Tensor) -> Tensor:
    """Return the centred sum of squares of all values, then of all but each one, (1 + N,)."""
    n, total, squares = len(values), values.sum(), values.square().sum()
    whole = squares - total**2 / n
    without = (squares - values**2) - (total - values) ** 2 / (n - 1)
    # per degree of freedom, so that all are estimates of one number
    return torch.cat([(whole / (n - 1))[None], without / (n - 2)])


def _share(rho: float, k: int) -> float:
    """Return the variance of the mean over all pairs of k draws over that of one pair."""
    return (4 * (k - 2) * rho + 2) / (k * (k - 1)) if k >= 2 else 1.0


def _pair_variances(values_NKK: Tensor) -> tuple[float, float]:
    """Return unbiased zeta_1 = Var E[h | one draw] and zeta_2 = Var h, mean over prompts.

    Products of pairs that share 1 or 2 draws; E[h]^2 from disjoint pairs, or with 3 draws, where
    there are none, from the products across prompts' own means.
    """
    k = values_NKK.shape[1]
    pairs = list(combinations(range(k), 2))
    first = torch.tensor([pair[0] for pair in pairs])
    second = torch.tensor([pair[1] for pair in pairs])
    shared = sum(
        (one[:, None] == other[None, :]).long()
        for one in (first, second)
        for other in (first, second)
    )
    values_NP = values_NKK[:, first, second]
    products_PP = torch.einsum("np,nq->pq", values_NP, values_NP) / len(values_NP)

    def mean_of(overlap: int) -> float:
        chosen = torch.as_tensor(shared == overlap)
        return float(products_PP[chosen].mean())

    squared_mean = mean_of(0) if k >= 4 else float(values_NP.mean(dim=1).mean() ** 2)
    return max(0.0, mean_of(1) - squared_mean), max(0.0, mean_of(2) - squared_mean)
