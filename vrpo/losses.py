"""The VRPO objective over pairs: pure functions of rewards, predicted preferences and labels.

Ye, Zhou, Zhu, Quinzan and Shi, "Robust RLHF for LLM Fine-Tuning", arXiv 2504.03784. For a pair with
margin ``m`` and a pair loss ``phi``, write ``l(q; m) = q phi(m) + (1 - q) phi(-m)``: the loss when
the first completion is preferred with probability ``q``. A labelled prompt then costs

    l(z; m) - lambda l(p; m) + lambda U

the loss on the label ``z``, minus what the preference model expects of the same pair, plus ``U``,
the mean of what it expects of pairs drawn from the reference policy. The last two have equal mean
when the labelled completions come from that policy, so they change the variance of the estimate and
not its target.

Where this differs from the paper and the authors' code: ``lambda`` is free (theirs is 1); ``U``
runs over all pairs of the K samples, or with ``pool`` of all K + 2 draws, so that K = 0 is DPO. The
label enters linearly, so the first two terms are one closed form; the four-term sum, which
loses its digits in low precision, is never taken.

Shapes: B = prompts, K = sampled completions, C = 2 + K completions, P = pairs. Columns 0 and 1 are
the labelled completions. Everything is computed in float32, or in float64 if rewards are float64.
"""

from typing import Final, Literal, NamedTuple, TypedDict, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.pairs import clip_margin, labelled_pair, reference_pairs

LossName = Literal["sigmoid", "ipo", "hinge", "ramp"]
LOSSES: Final[tuple[str, ...]] = get_args(LossName)
RAMP_CEILING_MARGIN: Final = -0.5
"""The authors' truncated hinge is constant (1.5) for margins below this."""


class Preset(TypedDict):
    """Keyword arguments of ``vrpo_loss`` under one name."""

    control_weight: float
    pool: bool
    loss: LossName


PAPER: Final[Preset] = {"control_weight": 1.0, "pool": False, "loss": "sigmoid"}
"""The published objective; with K = 2 it is one reference pair a prompt."""
REFERENCE_CODE: Final[Preset] = {"control_weight": 1.0, "pool": False, "loss": "ramp"}
"""What the authors' trainer minimises, with K = 2: a truncated hinge, whatever loss_type says."""


class VrpoTerms(NamedTuple):
    """The parts of the loss, each (B,): ``loss = observed + lambda (resampled - predicted)``."""

    observed: Tensor
    """Loss on the label."""
    predicted: Tensor
    """What the preference model expects of the labelled pair."""
    resampled: Tensor
    """What it expects of reference pairs; equals ``predicted`` for a prompt without a pair."""
    margin: Tensor
    """Reward of column 0 minus that of column 1, before any clip."""


def vrpo_loss(
    rewards: Tensor,
    preference: Tensor,
    label: Tensor,
    *,
    control_weight: float | Tensor,
    pool: bool = True,
    loss: LossName = "sigmoid",
    margin_clip: float | None = None,
    tau: float | None = None,
    sample_mask: Tensor | None = None,
) -> Tensor:
    """Return the loss of each prompt, (B,), not reduced.

    ``rewards`` (B, C): beta times the log-ratio of policy and anchor, or a reward head's scores;
    for ``ipo`` the log-ratio averaged over tokens, without beta. ``preference`` (B, C, C): entry
    [b, j, k] is the predicted probability that completion j is preferred to k, and [b, j, k] +
    [b, k, j] = 1; no gradient goes through it. ``label`` (B,): probability that column 0 is
    preferred; a tie is 0.5, mean votes are allowed, and so are rDPO's labels outside [0, 1].

    ``control_weight`` in [0, 1], a number or (B,): 0 is DPO, 1 the paper. ``pool`` takes the pairs
    of all C draws instead of the K samples. ``margin_clip`` limits the margins of all three
    terms, which bounds the loss and keeps the correction's mean at zero. ``tau`` is the strength
    of ``ipo``, used by it alone. ``sample_mask`` (B, K) is True where a sample exists. A prompt
    without a pair (unpooled, fewer than 2 samples) has its correction switched off.

    Raises ValueError for shapes that do not fit, an unknown loss, a weight outside [0, 1] given as
    a number, ``ipo`` without a positive ``tau``, or a margin clip that is not positive.
    """
    check_arguments(rewards, preference, label, loss=loss, margin_clip=margin_clip, tau=tau)
    if not isinstance(control_weight, Tensor) and not 0.0 <= control_weight <= 1.0:
        raise ValueError(f"control_weight must be in [0, 1], got {control_weight}")
    pairs = reference_pairs(rewards, preference, pool=pool, sample_mask=sample_mask)
    margin, predicted, label = labelled_pair(rewards, preference, label)
    weight = torch.as_tensor(control_weight, dtype=margin.dtype, device=margin.device).detach()
    weight = weight * pairs.exists
    margin = clip_margin(margin, margin_clip)
    labelled = _labelled_loss(margin, label, predicted, weight, loss=loss, tau=tau)
    sampled = clip_margin(pairs.margin, margin_clip)
    pair_losses_BP = pair_loss(sampled, pairs.preference, loss=loss, tau=tau)
    return labelled + weight * pairs.mean(pair_losses_BP)


def vrpo_terms(
    rewards: Tensor,
    preference: Tensor,
    label: Tensor,
    *,
    pool: bool = True,
    loss: LossName = "sigmoid",
    margin_clip: float | None = None,
    tau: float | None = None,
    sample_mask: Tensor | None = None,
) -> VrpoTerms:
    """Return the terms of the loss and the margin, for metrics; arguments as in ``vrpo_loss``."""
    check_arguments(rewards, preference, label, loss=loss, margin_clip=margin_clip, tau=tau)
    pairs = reference_pairs(rewards, preference, pool=pool, sample_mask=sample_mask)
    margin, preferred, label = labelled_pair(rewards, preference, label)
    clipped = clip_margin(margin, margin_clip)
    predicted = pair_loss(clipped, preferred, loss=loss, tau=tau)
    sampled = clip_margin(pairs.margin, margin_clip)
    pair_losses_BP = pair_loss(sampled, pairs.preference, loss=loss, tau=tau)
    return VrpoTerms(
        observed=pair_loss(clipped, label, loss=loss, tau=tau),
        predicted=predicted,
        resampled=torch.where(pairs.exists > 0, pairs.mean(pair_losses_BP), predicted),
        margin=margin,
    )


def pair_loss(margin: Tensor, preference: Tensor, *, loss: LossName, tau: float | None) -> Tensor:
    """Return ``l(preference; margin)``, the expected loss of pairs, of the shape of ``margin``.

    Raises ValueError for ``ipo`` without a positive ``tau``.
    """
    if loss == "sigmoid":
        return _softplus(margin) - preference * margin
    if loss == "ipo":
        tau = _positive(tau)
        return margin.square() + 1 / (4 * tau**2) - (2 * preference - 1) * margin / tau
    return preference * _phi(margin, loss) + (1 - preference) * _phi(-margin, loss)


def pair_slope(margin: Tensor, preference: Tensor, *, loss: LossName, tau: float | None) -> Tensor:
    """Return the derivative of ``pair_loss`` with respect to the margin, in closed form.

    At a kink of ``hinge`` or ``ramp`` it is what autograd takes. Raises as ``pair_loss``.
    """
    if loss == "sigmoid":
        return torch.sigmoid(margin) - preference
    if loss == "ipo":
        return 2 * margin - (2 * preference - 1) / _positive(tau)
    return preference * _phi_slope(margin, loss) - (1 - preference) * _phi_slope(-margin, loss)


def smoothed_label(label: Tensor, *, flip_rate: float) -> Tensor:
    """Return the label of cDPO (Mitchell 2023): the label after flips with ``flip_rate``.

    Any shape. The preference model must then be of the flipped labels too.
    """
    return (1 - flip_rate) * label + flip_rate * (1 - label)


def debiased_label(label: Tensor, *, flip_rate: float) -> Tensor:
    """Return the label of rDPO (arXiv 2403.00409): the loss is then unbiased under known flips.

    Lies outside [0, 1]; the loss is linear in the label. Raises ValueError unless 0 <= rate < 0.5.
    """
    if not 0.0 <= flip_rate < 0.5:
        raise ValueError(f"flip_rate must be in [0, 0.5), got {flip_rate}")
    return (label - flip_rate) / (1 - 2 * flip_rate)


def check_arguments(
    rewards: Tensor,
    preference: Tensor,
    label: Tensor,
    *,
    loss: str,
    margin_clip: float | None,
    tau: float | None,
) -> None:
    """Raise ValueError for arguments that ``vrpo_loss`` does not take; reads no tensor's values."""
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be (B, 2 + K), got {tuple(rewards.shape)}")
    batch, columns = rewards.shape
    if preference.shape != (batch, columns, columns):
        raise ValueError(
            f"preference must be {(batch, columns, columns)}, got {tuple(preference.shape)}"
        )
    if label.shape != (batch,):
        raise ValueError(f"label must be {(batch,)}, got {tuple(label.shape)}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    if loss == "ipo":
        _positive(tau)
    if margin_clip is not None and not margin_clip > 0:
        raise ValueError(f"margin_clip must be positive, got {margin_clip}")


def _labelled_loss(
    margin: Tensor,
    label: Tensor,
    predicted: Tensor,
    weight: Tensor,
    *,
    loss: LossName,
    tau: float | None,
) -> Tensor:
    """Return ``l(label; m) - weight l(predicted; m)`` without cancellation of large terms."""
    if loss == "sigmoid":
        return (1 - weight) * _softplus(margin) - (label - weight * predicted) * margin
    if loss == "ipo":
        tau = _positive(tau)
        residual = (2 * label - 1) - weight * (2 * predicted - 1)
        return (1 - weight) * (margin.square() + 1 / (4 * tau**2)) - residual * margin / tau
    return (label - weight * predicted) * _phi(margin, loss) + (
        (1 - label) - weight * (1 - predicted)
    ) * _phi(-margin, loss)


def _softplus(margin: Tensor) -> Tensor:
    # F.softplus turns linear at 20, which is visible in float64
    return -F.logsigmoid(-margin)


def _phi(margin: Tensor, loss: LossName) -> Tensor:
    hinge = torch.relu(1 - margin)
    return hinge - torch.relu(RAMP_CEILING_MARGIN - margin) if loss == "ramp" else hinge


def _phi_slope(margin: Tensor, loss: LossName) -> Tensor:
    slope = -(margin < 1).to(margin.dtype)
    return slope * (margin >= RAMP_CEILING_MARGIN) if loss == "ramp" else slope


def _positive(tau: float | None) -> float:
    if tau is None or not tau > 0:
        raise ValueError(f"loss 'ipo' needs a positive tau, got {tau}")
    return tau
