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
MIN_DRAWS: Final = 4
"""Least number of draws among which two pairs share none."""
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
    variance: float
    """Unbiased estimate of the variance of the reference term given the prompt (V_K of method 3.a),
    mean over prompts; may be below zero where there are few."""
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
    """Return ``sum (a - mean - lambda d)^2 / sum (a - mean)^2`` over the prompts of a probe set.

    ``a`` and ``d`` are those of ``vrpo.control.control_statistics``: (N,) for one direction, or
    (N, Q) for several, whose variances are added. A lambda that was fitted to these very prompts
    makes the ratio look better than it is, by about one part in N. Raises ValueError for too few
    prompts or no variance, NumericalError for values that are not finite.
    """
    a, d = a.detach().double(), d.detach().double()
    if a.ndim not in (1, 2) or a.shape != d.shape or len(a) < MIN_PROMPTS:
        raise ValueError(f"a and d must be (N,) or (N, Q) with at least {MIN_PROMPTS} prompts")
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


def reference_term_error(
    pair_values_NCC: Tensor, *, pool: bool = True, sample_mask: Tensor | None = None
) -> MonteCarloError:
    """Return the Monte-Carlo error of the mean over all reference pairs (method 3.a).

    ``pair_values_NCC`` [n, j, k], symmetric in j and k, is what the pair (j, k) of all C = K + 2
    draws contributes: ``vrpo.control.pair_changes``, or losses. ``sample_mask`` (N, K) is True
    where a sample exists.

    The variances of a pair are taken from the draws that the reference term uses: all of them with
    ``pool``, else the samples alone where there are 4. With fewer the labelled completions help
    out, as if they had the samples' law. Prompts with fewer than 4 such draws are left out: without
    two pairs that share no draw, the variance of a pair cannot be told from the difference between
    prompts. Raises ValueError where no prompt is left, NumericalError for values that are not
    finite.
    """
    values = pair_values_NCC.detach().double()
    if values.ndim != 3 or values.shape[1] != values.shape[2] or values.shape[1] < MIN_DRAWS:
        raise ValueError(
            f"pair values must be (N, 2 + K, 2 + K) with K >= 2, got {tuple(values.shape)}"
        )
    samples = values.shape[1] - 2
    mask_NC = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if sample_mask is not None:
        if sample_mask.shape != (len(values), samples):
            raise ValueError(
                f"sample_mask must be {(len(values), samples)}, got {tuple(sample_mask.shape)}"
            )
        mask_NC = torch.cat([mask_NC[:, :2], sample_mask.bool().to(mask_NC.device)], dim=1)
    extra = 2 if pool else 0
    draws_N = mask_NC[:, 2:].sum(dim=1) + extra
    if not pool and bool((draws_N >= MIN_DRAWS).any()):
        mask_NC = mask_NC & (torch.arange(samples + 2, device=mask_NC.device) >= 2)
    zeta_1, zeta_2 = pair_variances(values, mask_NC)
    rho = min(0.5, max(0.0, zeta_1 / zeta_2)) if zeta_2 > 0 else 0.0
    several = [count for count in draws_N.tolist() if count >= 2]
    one, both = (
        sum(_coefficients(count)[place] for count in several) / max(1, len(several))
        for place in (0, 1)
    )
    variance = one * zeta_1 + both * zeta_2
    noise, pair = max(0.0, variance), max(0.0, zeta_2)
    # pooled, the labelled pair is one of the averaged ones: Var D = V_h - V_K, else V_h + V_K
    spread = pair - noise if pool else pair + noise
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
        variance=variance,
        noise_share=noise / spread if spread > 0 else 0.0,
        standard_error=math.sqrt(noise),
        suggested_samples=suggested,
        alarm=suggested > 2 * samples,
        meaning=(
            f"{samples} samples a prompt keep {1 - _share(rho, samples + extra):.0%} of the "
            f"possible gain; {suggested} keep {TARGET_SHARE:.0%}."
        ),
    )


def pair_variances(values_NCC: Tensor, mask_NC: Tensor) -> tuple[float, float]:
    """Return zeta_1 = Var E[h | one draw] and zeta_2 = Var h, given the prompt; mean over prompts.

    Unbiased, and so below zero at times: means of products of two pairs that share 1 or 2 draws,
    minus the mean of products of pairs that share none, which is the prompt's own E[h]^2. For
    symmetric ``values_NCC`` (N, C, C) and the draws of ``mask_NC``. Raises ValueError where no
    prompt has 4 draws, NumericalError for values that are not finite.
    """
    kept = mask_NC.sum(dim=1) >= MIN_DRAWS
    if not bool(kept.any()):
        raise ValueError(f"the variance of a pair needs a prompt with {MIN_DRAWS} draws")
    mask_NC = mask_NC[kept]
    pairs_NCC = mask_NC[:, :, None] & mask_NC[:, None, :]
    pairs_NCC &= ~torch.eye(mask_NC.shape[1], dtype=torch.bool, device=mask_NC.device)
    values = values_NCC[kept].double().masked_fill(~pairs_NCC, 0.0)
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("the values of the reference pairs are not finite")
    v = mask_NC.sum(dim=1).double()
    # a prompt's own constant changes none of the differences below, and digits are kept without it
    mean = values.sum(dim=(1, 2)) / (v * (v - 1))
    values = (values - mean[:, None, None]).masked_fill(~pairs_NCC, 0.0)
    # ordered pairs of unordered pairs, by how many draws they share
    squares = values.square().sum(dim=(1, 2)) / 2
    rows = values.sum(dim=2).square().sum(dim=1)
    total = (values.sum(dim=(1, 2)) / 2).square()
    both = squares / (v * (v - 1) / 2)
    one = (rows - 2 * squares) / (v * (v - 1) * (v - 2))
    none = (total + squares - rows) / (v * (v - 1) * (v - 2) * (v - 3) / 4)
    return float((one - none).mean()), float((both - none).mean())


def leave_one_out(values: Tensor) -> Tensor:
    """Return the centred sum of squares of all values, then of all but each one, (1 + N,).

    Each over its degrees of freedom, so that all are estimates of one variance. ``values`` (N,), or
    (N, Q), whose columns' variances are added.
    """
    columns = values.reshape(len(values), -1)
    n, total, squares = len(columns), columns.sum(0), columns.square().sum(0)
    whole = squares - total**2 / n
    without = (squares - columns**2) - (total - columns) ** 2 / (n - 1)
    return torch.cat([(whole.sum() / (n - 1))[None], without.sum(1) / (n - 2)])


def _share(rho: float, k: int) -> float:
    """Return the variance of the mean over all pairs of k draws over that of one pair."""
    if k < 2:
        return 1.0
    one, both = _coefficients(k)
    return one * rho + both


def _coefficients(k: int) -> tuple[float, float]:
    """Return what zeta_1 and zeta_2 count in the variance of the mean over all pairs of k draws."""
    return 4 * (k - 2) / (k * (k - 1)), 2 / (k * (k - 1))
