"""The policy on held-out pairs: loss, preference accuracy, and how far log-probs have drifted.

Shapes: N = held-out rows, C = labelled completions of a row (2, or 1 of a chat row).
"""

import math

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional as F

from vrpo.diagnostics import policy_drift
from vrpo.evaluate.divergence import clustered_error
from vrpo.statistics import wilson_interval


def language_model_loss(
    policy_NC: Tensor, reference_NC: Tensor, *, tokens_N: Tensor
) -> dict[str, JsonValue]:
    """Return nats per completion token of the policy, and of the model it started from.

    ``tokens_N`` is how many tokens each row's completions have. The error of the difference counts
    rows, as that of a ratio of sums over them.
    """
    tokens = float(tokens_N.sum())
    change_N = (reference_NC - policy_NC).double().sum(dim=1)
    left_N = change_N - float(change_N.sum()) / tokens * tokens_N.double()
    return {
        "valid_loss": -float(policy_NC.sum()) / tokens,
        "reference_valid_loss": -float(reference_NC.sum()) / tokens,
        "valid_loss_change_se": clustered_error(left_N, range(len(left_N))) * len(left_N) / tokens,
    }


def preference_figures(
    policy_N2: Tensor, reference_N2: Tensor, label_N: Tensor, *, beta: float, length_N2: Tensor
) -> dict[str, JsonValue]:
    """Return what the implicit reward ``beta (policy - reference)`` says of held-out pairs.

    The drift of the preferred and of the other completion is the change of their log-prob: both may
    fall while the margin grows (likelihood displacement, Razin et al. 2024, arXiv 2410.08847).
    ``length_N2`` are the completions' lengths in tokens.
    """
    change_N2 = (policy_N2 - reference_N2).double()
    margin_N = beta * (change_N2[:, 0] - change_N2[:, 1])
    label_N = label_N.double()
    signed = torch.where(label_N >= 0.5, margin_N, -margin_N)
    result: dict[str, JsonValue] = {
        "valid_loss": float(F.binary_cross_entropy_with_logits(margin_N, label_N)),
        "reward_margin": float(signed.mean()),
        "reward_margin_se": clustered_error(signed, range(len(signed))),
    }
    decided = label_N != 0.5
    if bool(decided.any()):
        drift = policy_drift(policy_N2, reference_N2, length_N2, label_N)
        result |= {
            "preferred_drift": drift.preferred,
            "rejected_drift": drift.other,
            "preferred_drift_per_token": drift.preferred_per_token,
            "preferred_drift_per_token_se": _finite(drift.preferred_per_token_se),
        }
        # a margin of zero is a coin
        right = torch.where(margin_N == 0, 0.5, (signed > 0).double())[decided]
        interval = wilson_interval(float(right.sum()), len(right))
        result |= {
            "preference_accuracy": interval.value,
            "preference_accuracy_low": interval.low,
            "preference_accuracy_high": interval.high,
        }
    return result


def _finite(error: float) -> float:
    """Return the error, or 0 for the single row that has none."""
    return error if math.isfinite(error) else 0.0
