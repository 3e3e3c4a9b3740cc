"""Is the preference model right: accuracy, calibration and residuals on labels it did not see."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vrpo.diagnostics import agreement_check, residual_check
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import Evidence
from vrpo.preference.calibration import (
    expected_calibration_error,
    fit_temperature,
    pair_accuracy,
)
from vrpo.statistics import wilson_interval

COIN_NLL = math.log(2)
ECE_LIMIT = 0.1
ECE_PAIRS = 100
TEMPERATURES = (0.5, 2.0)
WHAT_TO_DO = "give more labels, another backbone, or a judge"


def preference_checks(evidence: Evidence) -> list[Check]:
    """Return the checks of p_eta, from what it says of every labelled training pair.

    Each pair is judged by a model of a fold that does not hold it, so its label is unseen; with one
    fold it is not, which the residuals show.
    """
    scores = evidence.scores
    if scores is None or scores.preference_NCC is None or not len(scores.label_N):
        return []
    label_N = scores.label_N.double().clamp(0, 1)
    p_N = scores.preference_NCC[:, 0, 1].double()
    logits_N = torch.logit(p_N, eps=1e-7)
    checks = [_accuracy(logits_N, label_N), *_calibration(logits_N, label_N)]
    if "temperature" in evidence.fitted:
        checks.append(Check("preference_temperature", float(evidence.fitted["temperature"])))
    checks.append(Check("gain_ceiling", float((2 * p_N - 1).square().mean())))
    hard = (label_N == 0) | (label_N == 1)
    if bool(hard.any()):
        found = residual_check(label_N[hard], p_N[hard])
        ratio = found.observed / found.promised if found.promised > 0 else math.inf
        checks.append(Check("residual_ratio", ratio, found.alarm, found.meaning))
    agreed = agreement_check(logits_N, label_N, p_N)
    if agreed.model_with_labels is not None:
        checks.append(
            Check(
                "preference_agreement",
                agreed.model_with_labels.value,
                agreed.alarm,
                agreed.meaning,
                interval=agreed.model_with_labels,
            )
        )
    if agreed.ceiling is not None and agreed.ceiling < 1:
        checks.append(Check("label_ceiling", agreed.ceiling))
    return checks


def _accuracy(logits_N: Tensor, label_N: Tensor) -> Check:
    number = int((label_N != 0.5).sum())
    accuracy = pair_accuracy(logits_N, label_N)
    if not number:
        return Check("preference_accuracy", accuracy, True, "No label prefers either completion.")
    interval = wilson_interval(accuracy * number, number)
    return Check(
        "preference_accuracy",
        accuracy,
        interval.low <= 0.5,
        f"p_eta is no better than chance on unseen pairs: {WHAT_TO_DO}."
        if interval.low <= 0.5
        else "p_eta knows something about pairs that it has not seen.",
        standard_error=math.sqrt(accuracy * (1 - accuracy) / number),
        interval=interval,
    )


def _calibration(logits_N: Tensor, label_N: Tensor) -> list[Check]:
    losses_N = F.binary_cross_entropy_with_logits(logits_N, label_N, reduction="none")
    nll = float(losses_N.mean())
    error = float(losses_N.std()) / math.sqrt(len(losses_N)) if len(losses_N) > 1 else 0.0
    is_worse = nll - 2 * error > COIN_NLL
    ece = expected_calibration_error(logits_N, label_N)
    is_off = ece > ECE_LIMIT and len(label_N) >= ECE_PAIRS
    remaining = fit_temperature(logits_N, label_N)
    low, high = TEMPERATURES
    is_scaled = low <= remaining <= high
    too_sure = "over" if remaining > high else "under"
    return [
        Check(
            "preference_nll",
            nll,
            is_worse,
            "p_eta is worse than a coin: keep preference.calibrate on." if is_worse else "",
            standard_error=error,
        ),
        Check(
            "preference_ece",
            ece,
            is_off,
            "p_eta's probabilities do not come true: see its reliability diagram, and give more "
            "labels to calibrate on."
            if is_off
            else "",
        ),
        Check(
            "remaining_temperature",
            remaining,
            not is_scaled,
            ""
            if is_scaled
            else f"p_eta is {too_sure}-confident: turn preference.calibrate on, or give it more "
            "labels to be calibrated on.",
        ),
    ]
