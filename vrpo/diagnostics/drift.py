"""How far the policy has gone from its anchor, and whether preferred completions lost as well.

Shapes: N = prompts, K = samples, M = completions of the policy's own.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError

DISPLACED: Final = -0.5
"""Change of the preferred completions' log-prob for each token, in nats, below which they count as
lost."""
ALARM_Z: Final = 2.0


@dataclass(frozen=True)
class PolicyDrift:
    """Changes of log-probs by training, in nats; means over prompts."""

    preferred: float
    """Of the completion that the label prefers; prompts with a tie are left out."""
    other: float
    sampled: float | None
    """Of the reference policy's samples; minus this is KL(anchor || policy)."""
    sampled_se: float | None
    preferred_per_token: float
    preferred_per_token_se: float
    kl: float | None
    """KL(policy || anchor): mean log-ratio of the policy's own completions at temperature 1."""
    kl_se: float | None
    entropy_per_token: float | None
    """Of the policy, from its own completions."""
    displaced: bool
    """Preferred completions have visibly become unlikely (Razin et al. 2024, arXiv 2410.08847)."""
    alarm: bool
    meaning: str


def policy_drift(
    policy_N2: Tensor,
    anchor_N2: Tensor,
    length_N2: Tensor,
    label_N: Tensor,
    *,
    sampled_policy_NK: Tensor | None = None,
    sampled_anchor_NK: Tensor | None = None,
    sample_mask: Tensor | None = None,
    own_policy_M: Tensor | None = None,
    own_anchor_M: Tensor | None = None,
    own_length_M: Tensor | None = None,
) -> PolicyDrift:
    """Compare log-probs (sums over tokens) of the labelled completions, and of samples if given.

    Lengths are in tokens; ``sample_mask`` (N, K) is True where a sample exists. ``own_...`` are
    completions that the policy drew at temperature 1 without top-p: only then is their mean
    log-ratio the divergence. Raises ValueError for shapes that differ or only ties, NumericalError
    for values that are not finite.
    """
    if policy_N2.ndim != 2 or policy_N2.shape[1:] != (2,):
        raise ValueError(f"log-probs must be (N, 2), got {tuple(policy_N2.shape)}")
    if not policy_N2.shape == anchor_N2.shape == length_N2.shape:
        raise ValueError("log-probs of policy and anchor, and lengths, must have one shape")
    if label_N.shape != policy_N2.shape[:1]:
        raise ValueError(f"label must be ({len(policy_N2)},), got {tuple(label_N.shape)}")
    change = _finite(policy_N2) - _finite(anchor_N2)
    untied = label_N != 0.5
    if not bool(untied.any()):
        raise ValueError("every label is a tie: no completion is preferred")
    chosen = (label_N < 0.5).long()[:, None]
    preferred, other, tokens = (
        values.double().gather(1, place)[:, 0][untied]
        for values, place in ((change, chosen), (change, 1 - chosen), (length_N2, chosen))
    )
    each = preferred / tokens
    per_token, error = float(each.mean()), _error(each)
    sampled = _sampled(sampled_policy_NK, sampled_anchor_NK, sample_mask)
    kl = None
    if own_policy_M is not None and own_anchor_M is not None:
        kl = _finite(own_policy_M) - _finite(own_anchor_M)
    entropy = None
    if own_policy_M is not None and own_length_M is not None:
        entropy = -float(_finite(own_policy_M).sum()) / float(own_length_M.sum())
    displaced = per_token + ALARM_Z * error < DISPLACED
    return PolicyDrift(
        preferred=float(preferred.mean()),
        other=float(other.mean()),
        sampled=None if sampled is None else float(sampled.mean()),
        sampled_se=None if sampled is None else _error(sampled),
        preferred_per_token=per_token,
        preferred_per_token_se=error,
        kl=None if kl is None else float(kl.mean()),
        kl_se=None if kl is None else _error(kl),
        entropy_per_token=entropy,
        displaced=displaced,
        alarm=displaced,
        meaning=(
            f"Even preferred completions have lost {-per_token:.2f} nats for each token: use a "
            "larger beta or a smaller learning rate, or train on them by themselves first."
            if displaced
            else "Preferred completions have kept their probability."
        ),
    )


def _sampled(
    policy_NK: Tensor | None, anchor_NK: Tensor | None, mask_NK: Tensor | None
) -> Tensor | None:
    """Return each prompt's mean change over its samples, for prompts that have one."""
    if policy_NK is None or anchor_NK is None:
        return None
    mask = torch.ones_like(policy_NK, dtype=torch.bool) if mask_NK is None else mask_NK.bool()
    change = (policy_NK.detach().double() - anchor_NK.detach().double()).masked_fill(~mask, 0.0)
    kept = mask.any(dim=1)
    return _finite(change[kept]).sum(dim=1) / mask[kept].sum(dim=1) if bool(kept.any()) else None


def _finite(values: Tensor) -> Tensor:
    values = values.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("log-probs are not finite")
    return values


def _error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.inf
