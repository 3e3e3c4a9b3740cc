"""Whether the reference samples follow the law of the labelled completions.

If they do, ``D = h - U`` has mean zero for any policy and any preference model, and so has the
difference of any feature between labelled and sampled completions of a prompt. If they do not, the
correction moves the target of training to pairs of the reference policy.

Shapes: N = prompts, Q = directions or features, K = samples, C = 2 + K completions, D = embedding.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.statistics import normal_tail

ALARM_P_VALUE: Final = 0.01
MIN_PROMPTS_PER_DIRECTION: Final = 5
"""Hotelling's test is not taken with fewer prompts than this for each direction."""


@dataclass(frozen=True)
class BalanceTest:
    """Hotelling's test that the mean of ``D`` is zero."""

    statistic: float
    """Hotelling's T squared, scaled to an F value."""
    p_value: float
    alarm: bool
    meaning: str


@dataclass(frozen=True)
class FeatureBalance:
    """The z-test of one feature: length, log-probability, predicted preference."""

    feature: str
    difference: float
    """Mean over prompts of labelled minus sampled."""
    z: float
    p_value: float
    alarm: bool
    meaning: str


def balance_test(d_NQ: Tensor) -> BalanceTest:
    """Test that the mean of ``d_NQ`` (N, Q), or (N,) for one direction, is zero (Hotelling 1931).

    Raises ValueError for too few prompts, NumericalError for values that are not finite.
    """
    values = _finite(d_NQ if d_NQ.ndim == 2 else d_NQ[:, None])
    n, q = values.shape
    if n < MIN_PROMPTS_PER_DIRECTION * q + 2:
        raise ValueError(
            f"the balance test of {q} directions needs {MIN_PROMPTS_PER_DIRECTION * q + 2} "
            f"prompts, got {n}"
        )
    mean = values.mean(dim=0)
    # the pseudo-inverse drops directions in which nothing varies
    covariance = (values - mean).T @ (values - mean) / (n - 1)
    rank = int(torch.linalg.matrix_rank(covariance, hermitian=True))
    if rank == 0:
        return BalanceTest(0.0, 1.0, False, "The correction is zero on every prompt.")
    t_squared = n * float(mean @ torch.linalg.pinv(covariance, hermitian=True) @ mean)
    f_value = t_squared * (n - rank) / (rank * (n - 1))
    p_value = _f_tail(f_value, rank, n - rank)
    alarm = p_value < ALARM_P_VALUE
    return BalanceTest(
        statistic=f_value,
        p_value=p_value,
        alarm=alarm,
        meaning=(
            "The samples do not follow the law of the labelled completions: training targets "
            "pairs of the reference policy; fit the reference policy on both responses, or use "
            "DPO (control weight 0)."
            if alarm
            else "Nothing speaks against samples and labelled completions having one law."
        ),
    )


def feature_balance(
    feature: str, labelled_N2: Tensor, sampled_NK: Tensor, sample_mask: Tensor | None = None
) -> FeatureBalance:
    """Compare one feature of the labelled completions (N, 2) with that of the samples (N, K).

    Prompts without a sample are left out. Raises ValueError with fewer than 2 prompts left.
    """
    mask = torch.ones_like(sampled_NK, dtype=torch.bool) if sample_mask is None else sample_mask
    kept = mask.any(dim=1)
    sampled = sampled_NK.double().masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
    difference = _finite((labelled_N2.double().mean(dim=1) - sampled)[kept])
    if len(difference) < 2:
        raise ValueError("comparing a feature needs at least 2 prompts with a sample")
    mean = float(difference.mean())
    error = float(difference.std()) / math.sqrt(len(difference))
    z = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    p_value = normal_tail(z)
    alarm = p_value < ALARM_P_VALUE
    direction = "larger" if mean > 0 else "smaller"
    return FeatureBalance(
        feature=feature,
        difference=mean,
        z=z,
        p_value=p_value,
        alarm=alarm,
        meaning=(
            f"The {feature} of labelled completions is {direction} than that of the samples."
            if alarm
            else f"The {feature} of labelled and sampled completions does not differ visibly."
        ),
    )


def preference_balance(
    preference_NCC: Tensor, sample_mask: Tensor | None = None
) -> tuple[FeatureBalance, ...]:
    """Compare labelled and sampled completions by the preference model itself.

    The first feature is the probability that a labelled completion is preferred to a sample of its
    prompt, against the reverse: 1/2 each if they have one law. The second is the certainty
    (2p - 1)^2 of the labelled pair against that of sampled pairs, and is left out where fewer than
    two prompts have two samples. Raises as ``feature_balance`` does.
    """
    preference = preference_NCC.detach().double()
    mask = torch.ones_like(preference[:, 0, 2:], dtype=torch.bool)
    if sample_mask is not None:
        mask = sample_mask.bool()
    wins_NK = preference[:, :2, 2:].mean(dim=1)
    wins = feature_balance(
        "predicted preference", wins_NK.new_zeros(len(wins_NK), 2), 1 - 2 * wins_NK, mask
    )
    certainty = (2 * preference - 1).square()
    samples = mask.shape[1]
    first, second = torch.triu_indices(samples, samples, offset=1, device=mask.device)
    certainty_N2 = certainty[:, 0, 1][:, None].expand(-1, 2)
    pairs = mask[:, first] & mask[:, second]
    if int(pairs.any(dim=1).sum()) < 2:
        return (wins,)
    certain = feature_balance(
        "certainty of the preference model",
        certainty_N2,
        certainty[:, 2:, 2:][:, first, second],
        pairs,
    )
    return wins, certain


def embedding_balance(
    labelled_N2D: Tensor,
    sampled_NKD: Tensor,
    sample_mask: Tensor | None = None,
    *,
    directions: int = 8,
) -> BalanceTest:
    """Compare the embeddings of labelled and sampled completions (Hotelling).

    Along the directions in which the completions of one prompt differ most, whichever of the two
    they are, so that choosing them does not favour a difference. Prompts without a sample are left
    out. Raises as ``balance_test`` does.
    """
    mask = torch.ones(sampled_NKD.shape[:2], dtype=torch.bool, device=sampled_NKD.device)
    if sample_mask is not None:
        mask = sample_mask.bool()
    kept = mask.any(dim=1)
    mask = mask[kept]
    labelled = _finite(labelled_N2D[kept])
    sampled = _finite(sampled_NKD[kept].masked_fill(~mask[:, :, None], 0.0))
    weight_NC1 = torch.cat([torch.ones_like(mask[:, :1]).expand(-1, 2), mask], dim=1)[..., None]
    both = torch.cat([labelled, sampled], dim=1)
    centre = (both * weight_NC1).sum(dim=1, keepdim=True) / weight_NC1.sum(dim=1, keepdim=True)
    spread = ((both - centre) * weight_NC1).flatten(0, 1)
    count = min(directions, spread.shape[1], (len(labelled) - 2) // MIN_PROMPTS_PER_DIRECTION)
    _, vectors = torch.linalg.eigh(spread.T @ spread)
    mean_sampled = sampled.sum(dim=1) / mask.sum(dim=1, keepdim=True)
    difference = labelled.mean(dim=1) - mean_sampled
    return balance_test(difference @ vectors[:, -max(1, count) :])


def _finite(values: Tensor) -> Tensor:
    values = values.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("the values of a balance test are not finite")
    return values


def _f_tail(value: float, first: int, second: int) -> float:
    """Return P(F > value) for F with (first, second) degrees of freedom.

    The regularised incomplete beta function by its continued fraction (Lentz's method).
    """
    if value <= 0:
        return 1.0
    x = second / (second + first * value)
    return _incomplete_beta(second / 2, first / 2, x)


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1 - x)
    if x <= 0:
        return 0.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            d = 1.0 / (_away_from_zero(1 + step * d, tiny))
            c = _away_from_zero(1 + step / c, tiny)
            result *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return math.exp(log_front) * result / a


def _away_from_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
