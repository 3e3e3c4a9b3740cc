"""The parts of the loss apart: data, correction and reference, and whether the correction is zero.

The correction, ``U - l(p; m)``, has mean zero while samples and labelled completions have one law
and the policy has not learned the labelled pairs by heart. A mean far from zero says that training
follows something other than the labels.

Shapes: N = prompts, C = 2 + K completions.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.losses import LossName, vrpo_loss, vrpo_terms

ALARM_Z: Final = 4.0
MIN_PROMPTS: Final = 2


@dataclass(frozen=True)
class TermSplit:
    """Means over prompts, and gradients with respect to the rewards."""

    data: float
    """Loss on the labels: all of DPO's loss."""
    predicted: float
    """What the preference model expects of the labelled pairs."""
    reference: float
    """What it expects of pairs of draws."""
    correction: float
    """``reference - predicted``, before the control weight."""
    correction_se: float
    z: float
    """``correction`` in standard errors; should be near 0."""
    data_gradient: float
    """Root mean square over prompts of the gradient of the data term with respect to rewards."""
    predicted_gradient: float
    """The same of what the preference model expects of the labelled pairs, before lambda."""
    reference_gradient: float
    """The same of what it expects of drawn pairs, before lambda."""
    correction_gradient: float
    """The same of the correction times the control weight."""
    cosine: float | None
    """Of the two gradients over all prompts; None where one is zero."""
    alarm: bool
    meaning: str


def term_split(
    rewards: Tensor,
    preference: Tensor,
    label: Tensor,
    *,
    control_weight: float,
    pool: bool = True,
    loss: LossName = "sigmoid",
    margin_clip: float | None = None,
    tau: float | None = None,
    sample_mask: Tensor | None = None,
) -> TermSplit:
    """Take the loss of N prompts apart; arguments and ValueError as in ``vrpo_loss``.

    Rewards of prompts that the policy was not trained on make the better test. Raises ValueError
    also for fewer than 2 prompts, NumericalError for values that are not finite.
    """
    if len(rewards) < MIN_PROMPTS:
        raise ValueError(f"the split into terms needs {MIN_PROMPTS} prompts, got {len(rewards)}")
    leaf = rewards.detach().clone().requires_grad_()
    terms = vrpo_terms(
        leaf,
        preference,
        label,
        pool=pool,
        loss=loss,
        margin_clip=margin_clip,
        tau=tau,
        sample_mask=sample_mask,
    )
    correction_N = (terms.resampled - terms.predicted).detach().double()
    if not bool(torch.isfinite(correction_N).all() & torch.isfinite(terms.observed).all()):
        raise NumericalError("the terms of the loss are not finite")
    data_NC, whole_NC = (
        torch.autograd.grad(
            vrpo_loss(
                leaf,
                preference,
                label,
                control_weight=weight,
                pool=pool,
                loss=loss,
                margin_clip=margin_clip,
                tau=tau,
                sample_mask=sample_mask,
            ).sum(),
            leaf,
        )[0].double()
        for weight in (0.0, control_weight)
    )
    predicted_NC, reference_NC = (
        torch.autograd.grad(part.sum(), leaf, retain_graph=True)[0].double()
        for part in (terms.predicted, terms.resampled)
    )
    mean = float(correction_N.mean())
    error = float(correction_N.std()) / math.sqrt(len(correction_N))
    z = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    alarm = abs(z) > ALARM_Z
    return TermSplit(
        data=float(terms.observed.detach().mean()),
        predicted=float(terms.predicted.detach().mean()),
        reference=float(terms.resampled.detach().mean()),
        correction=mean,
        correction_se=error,
        z=z,
        data_gradient=_size(data_NC),
        predicted_gradient=_size(predicted_NC),
        reference_gradient=_size(reference_NC),
        correction_gradient=_size(whole_NC - data_NC),
        cosine=_cosine(data_NC, whole_NC - data_NC),
        alarm=alarm,
        meaning=(
            f"The correction is {abs(z):.1f} standard errors from zero: the samples have another "
            "law than the labelled completions, or the policy has learned the labelled pairs by "
            "heart; look at the balance test on held-out prompts."
            if alarm
            else "The correction is zero on average, as it should be."
        ),
    )


def _size(gradient_NC: Tensor) -> float:
    return float(gradient_NC.square().sum(dim=1).mean().sqrt())


def _cosine(one: Tensor, other: Tensor) -> float | None:
    norms = float(one.norm() * other.norm())
    return float((one * other).sum()) / norms if norms > 0 else None
