"""Is the preference model right: accuracy, calibration and residuals on labels it did not see."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vrpo.diagnostics import (
    CalibrationCheck,
    agreement_check,
    calibration_check,
    fold_gap,
    residual_check,
    residual_slice,
)
from vrpo.diagnostics.calibration import ALARM_P_VALUE
from vrpo.diagnostics.residual import is_hard
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import Evidence, Scores

ECE_LIMIT = 0.1
ORDER_LIMIT = 0.5
"""Share of labelled pairs on which a judge may turn with the order."""
FAULTS = ("leakage", "overconfident", "underconfident")
"""What the residuals can alarm for."""
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
    found = calibration_check(logits_N, label_N)
    checks = [_accuracy(found, label_N), *_calibration(found)]
    if "temperature" in evidence.fitted:
        checks.append(Check("preference_temperature", float(evidence.fitted["temperature"])))
    checks.append(Check("gain_ceiling", found.gain_ceiling))
    checks += _residuals(label_N, p_N)
    if scores.seen_N is not None and len(label_N) > 1:
        gap = fold_gap(label_N, scores.seen_N, p_N)
        says = gap.meaning if gap.alarm else ""
        checks.append(
            Check("fold_gap", gap.gap, gap.alarm, says, standard_error=gap.standard_error)
        )
    if evidence.vrpo is not None and evidence.vrpo.preference.source == "judge":
        checks.append(_turned(p_N))
    checks += _slices(scores, label_N, p_N)
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


def _turned(p_N: Tensor) -> Check:
    """How often the judge's word turned with the order, after which p_eta is exactly 1/2."""
    share = float((p_N == 0.5).double().mean())
    alarm = share > ORDER_LIMIT
    says = "The judge goes by the place of most completions: use another judge." if alarm else ""
    return Check("preference_order_error", share, alarm, says)


def _accuracy(found: CalibrationCheck, label_N: Tensor) -> Check:
    interval = found.accuracy
    if interval is None:
        return Check("preference_accuracy", 0.5, True, "No label prefers either completion.")
    number = int((label_N != 0.5).sum())
    is_chance = interval.low <= 0.5
    return Check(
        "preference_accuracy",
        interval.value,
        is_chance,
        f"p_eta is not visibly better than chance on unseen pairs: {WHAT_TO_DO}."
        if is_chance
        else "p_eta knows something about pairs that it has not seen.",
        standard_error=math.sqrt(interval.value * (1 - interval.value) / number),
        interval=interval,
    )


def _calibration(found: CalibrationCheck) -> list[Check]:
    p_value = found.bins_p_value
    is_off = found.ece > ECE_LIMIT and p_value is not None and p_value < ALARM_P_VALUE
    is_scaled = not (found.overconfident or found.underconfident)
    return [
        Check(
            "preference_nll",
            found.nll,
            found.useless,
            found.meaning if found.useless else "",
            standard_error=found.nll_se,
        ),
        Check(
            "preference_ece",
            found.ece,
            is_off,
            "p_eta's probabilities do not come true: see its reliability diagram, and give more "
            "labels to calibrate on."
            if is_off
            else "",
        ),
        Check(
            "remaining_temperature",
            found.temperature,
            not is_scaled,
            "" if is_scaled else found.meaning,
        ),
    ]


def _residuals(label_N: Tensor, p_N: Tensor) -> Iterator[Check]:
    """Yield the residuals of the hard labels; soft ones vary less and would look known."""
    hard_N = is_hard(label_N)
    number = int(hard_N.sum())
    if not number:
        return
    found = residual_check(label_N[hard_N], p_N[hard_N])
    ratio = found.observed / found.promised if found.promised > 0 else math.inf
    faults = (found.leakage, found.overconfident, found.underconfident)
    fault = next((name for name, there in zip(FAULTS, faults, strict=True) if there), "")
    says = found.meaning
    if number < len(label_N):
        says += f" Of the {number} hard labels among {len(label_N)}."
    yield Check("residual_ratio", ratio, found.alarm, says, fault=fault)


def _slices(scores: Scores, label_N: Tensor, p_N: Tensor) -> Iterator[Check]:
    """Whether labels favour length, or what is likely, more or less than p_eta says."""
    for name, feature, values_NC in (
        ("residual_length_z", "length", scores.length_NC),
        ("residual_logprob_z", "likely completions", scores.anchor_NC),
    ):
        difference_N = values_NC[:, 0] - values_NC[:, 1]
        if bool((difference_N != 0).any()):
            found = residual_slice(feature, label_N, p_N, difference_N)
            yield Check(name, found.z, found.alarm, found.meaning)
