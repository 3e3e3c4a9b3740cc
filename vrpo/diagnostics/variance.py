"""Whether the correction reduces the variance of the gradient, and what more samples would do.

Shapes: N = prompts, K = samples of a prompt, C = 2 + K completions.
"""

import math
from dataclasses import dataclass
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

    samples: int
    pool: bool
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

    def gain_share(self, samples: int) -> float:
        """Return the share of that gain which K = ``samples`` keep, at lambda 1."""
        return 1 - _share(self.rho, samples + 2 if self.pool else samples)


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
    top, bottom = leave_one_out(g), leave_one_out(a)
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


def reference_term_error(pair_values_NCC: Tensor, *, pool: bool = True) -> MonteCarloError:
    """Return the Monte-Carlo error of the mean over all reference pairs (method: U-statistics).

    ``pair_values_NCC`` [n, j, k], symmetric in j and k, is what the pair (j, k) of all C = K + 2
    draws contributes: ``vrpo.control.pair_changes``, or losses. Every prompt has all its samples.
    Raises ValueError for fewer than 2 samples: without two pairs that share no draw, the variance
    of a pair cannot be told from the difference between prompts. NumericalError for values that
    are not finite.
    """
    values = pair_values_NCC.detach().double()
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] < 4:
        raise ValueError(
            f"pair values must be (N, 2 + K, 2 + K) with K >= 2, got {tuple(values.shape)}"
        )
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("the values of the reference pairs are not finite")
    zeta_1, zeta_2 = _pair_variances(values)
    samples, extra = values.shape[1] - 2, 2 if pool else 0
    rho = min(0.5, max(0.0, zeta_1 / zeta_2)) if zeta_2 > 0 else 0.0
    noise = _share(rho, samples + extra) * zeta_2
    # pooled, the labelled pair is one of the averaged ones: Var D = V_h - V_K, else V_h + V_K
    spread = zeta_2 - noise if pool else zeta_2 + noise
    suggested = next(
        (
            count
            for count in range(1 if pool else 2, MAX_SUGGESTED)
            if _share(rho, count + extra) <= 1 - TARGET_SHARE
        ),
        MAX_SUGGESTED,
    )
    return MonteCarloError(
        samples=samples,
        pool=pool,
        rho=rho,
        noise_share=noise / spread if spread > 0 else 0.0,
        standard_error=math.sqrt(noise),
        suggested_samples=suggested,
        alarm=suggested > 2 * samples,
        meaning=(
            f"{samples} samples a prompt keep {1 - _share(rho, samples + extra):.0%} of the "
            f"possible gain; {suggested} keep {TARGET_SHARE:.0%}."
        ),
    )


def leave_one_out(values: Tensor) -> Tensor:
    """Return the centred sum of squares of all values, then of all but each one, (1 + N,)."""
    n, total, squares = len(values), values.sum(), values.square().sum()
    whole = squares - total**2 / n
    without = (squares - values**2) - (total - values) ** 2 / (n - 1)
    # per degree of freedom, so that all are estimates of one number
    return torch.cat([(whole / (n - 1))[None], without / (n - 2)])


def _share(rho: float, k: int) -> float:
    """Return the variance of the mean over all pairs of k draws over that of one pair."""
    return (4 * (k - 2) * rho + 2) / (k * (k - 1)) if k >= 2 else 1.0


def _pair_variances(values_NCC: Tensor) -> tuple[float, float]:
    """Return unbiased zeta_1 = Var E[h | one draw] and zeta_2 = Var h, mean over prompts.

    Means of products of two pairs that share 1 or 2 draws, minus that of pairs that share none,
    which is the mean of each prompt's own E[h]^2.
    """
    draws = values_NCC.shape[1]
    first, second = torch.triu_indices(draws, draws, offset=1, device=values_NCC.device)
    shared_PP = sum(
        (one[:, None] == other[None, :]).long()
        for one in (first, second)
        for other in (first, second)
    )
    values_NP = values_NCC[:, first, second]
    products_PP = torch.einsum("np,nq->pq", values_NP, values_NP) / len(values_NP)
    none, one, both = (float(products_PP[shared_PP == count].mean()) for count in range(3))
    return max(0.0, one - none), max(0.0, both - none)
