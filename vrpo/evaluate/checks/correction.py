"""Is the correction helping: the variance of the gradient with it, over that of DPO."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from vrpo.control import pair_changes
from vrpo.diagnostics import (
    VarianceRatio,
    compare_weights,
    control_weight_check,
    label_gain,
    predicted_variance_ratio,
    reference_term_error,
    term_split,
)
from vrpo.diagnostics.terms import ALARM_Z, MIN_PROMPTS as MIN_PROMPTS_OF_TERMS
from vrpo.diagnostics.variance import MIN_DRAWS
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import ControlStatistics, Evidence, Probe, Scores
from vrpo.statistics import Interval

MIN_PROMPTS = 32
"""Fewer probed prompts than this say nothing about a variance."""
MIN_STEPS = 8
"""Fewer steps in the first epoch than this give the mean of the correction no error to trust."""
NO_WEIGHT = 0.1
"""An estimated control weight below this is DPO in effect."""


def correction_checks(evidence: Evidence) -> list[Check]:
    """Return the checks of the correction; nothing for a job without one."""
    if evidence.vrpo is None or evidence.control is None:
        return []
    control = evidence.control
    samples = evidence.vrpo.reference.samples_per_prompt
    if evidence.scores is not None:
        samples = evidence.scores.sample_mask_NK.shape[1]
    checks = _variance_checks(control, samples) if is_measured(control) else []
    checks += _weight_checks(evidence, control, samples)
    checks += _mean_checks(evidence)
    if evidence.probe is not None and evidence.scores is not None:
        checks += _term_checks(evidence, evidence.probe, evidence.scores, control)
    if evidence.vrpo.scheme == "one_stage":
        return checks
    # what the reward model's labels do without the correction is no DPO
    return [replace(c, says=c.says.replace("DPO", "a plain reward model")) for c in checks]


def is_measured(control: ControlStatistics) -> bool:
    """Whether enough prompts were probed, and their gradients vary at all."""
    return len(control.a) >= MIN_PROMPTS and bool(control.a.std() > 0)


def _weight_checks(evidence: Evidence, control: ControlStatistics, samples: int) -> Iterator[Check]:
    is_estimated = evidence.vrpo is not None and evidence.vrpo.control_weight == "auto"
    error = control.standard_error if is_estimated else None
    yield Check("control_weight", control.weight, standard_error=error)
    history = [
        values["vrpo/control_weight"]
        for stage in ("train_reward", "train_policy")
        for _, values in evidence.series.get(stage, ())
        if "vrpo/control_weight" in values
    ]
    if control.estimate is None or control.standard_error is None:
        return
    found = control_weight_check(
        control.estimate, control.standard_error, samples=samples, pool=evidence.pool
    )
    yield Check(
        "control_weight_estimate",
        control.estimate,
        found.alarm,
        found.meaning,
        standard_error=control.standard_error,
        fault="undetermined" if found.undetermined else "useless" if found.useless else "",
    )
    if is_estimated and len(history) > 3:
        quarter = len(history) // 4
        first, last = history[:quarter], history[-quarter:]
        yield Check("control_weight_trend", sum(last) / quarter - sum(first) / quarter)


def _mean_checks(evidence: Evidence) -> Iterator[Check]:
    """Whether the correction is zero on average while every pair is new to the policy.

    Later it is not: the policy learns the labelled pairs, and what p_eta expects of them drifts
    away from what it expects of the samples, with nothing wrong.
    """
    corrections = torch.tensor(
        [
            values["vrpo/resampled"] - values["vrpo/predicted"]
            for stage in ("train_reward", "train_policy")
            for _, values in evidence.series.get(stage, ())
            if "vrpo/resampled" in values and values.get("epoch", 1.0) <= 1
        ],
        dtype=torch.float64,
    )
    if len(corrections) < MIN_STEPS or not float(corrections.std()) > 0:
        return
    z = float(corrections.mean() / corrections.std()) * math.sqrt(len(corrections))
    alarm = abs(z) > ALARM_Z
    yield Check(
        "correction_z",
        z,
        alarm,
        "The correction is not zero on average: the samples have another law than the labelled "
        "completions; see the balance tests."
        if alarm
        else "The correction is zero on average, as it should be.",
    )


def _variance_checks(control: ControlStatistics, samples: int) -> list[Check]:
    ratio = predicted_variance_ratio(control.a, control.d, control_weight=control.weight)
    gain = label_gain(ratio, samples=samples)
    weights = compare_weights(control.a, control.d, control_weight=control.weight)
    at = dict(zip(weights.weights, weights.ratios, strict=True))
    return [
        _ratio_check("variance_ratio", ratio, ratio.alarm, ratio.meaning),
        _at_one(at[1.0], is_used=control.weight == 1.0),
        _ratio_check(
            "variance_ratio_at_best",
            at[weights.best],
            says=f"At a lambda of {weights.best:.2f}.",
        ),
        Check(
            "label_gain",
            gain.gain,
            gain.alarm,
            gain.meaning,
            interval=Interval(gain.low, gain.gain, gain.high),
        ),
        Check("gain_per_cost", gain.gain_per_cost),
        Check(
            "control_weight_loss",
            weights.loss_of_used,
            weights.alarm,
            weights.meaning,
            standard_error=weights.loss_se,
        ),
    ]


def _at_one(ratio: VarianceRatio, *, is_used: bool) -> Check:
    """Whether the paper's lambda would do harm, which alarms where it was the one that was set."""
    says = ""
    if ratio.alarm:
        says = "Lambda 1 adds noise to these labels: leave control_weight at auto."
        if is_used:
            says = "Lambda 1 adds noise to these labels: set control_weight to auto."
    return _ratio_check("variance_ratio_at_one", ratio, ratio.alarm and is_used, says)


def _ratio_check(name: str, ratio: VarianceRatio, alarm: bool = False, says: str = "") -> Check:
    low, high = (ratio.ratio + side * 2 * ratio.standard_error for side in (-1, 1))
    return Check(
        name,
        ratio.ratio,
        alarm,
        says,
        standard_error=ratio.standard_error,
        interval=Interval(low, ratio.ratio, high),
    )


def _term_checks(
    evidence: Evidence, probe: Probe, scores: Scores, control: ControlStatistics
) -> list[Check]:
    if scores.preference_NCC is None or len(probe.places_P) < MIN_PROMPTS_OF_TERMS:
        return []
    rows = probe.places_P
    preference = scores.preference_NCC[rows]
    mask = scores.sample_mask_NK[rows]
    split = term_split(
        probe.rewards_PC,
        preference,
        scores.label_N[rows],
        control_weight=control.weight,
        pool=evidence.pool,
        loss=evidence.loss,
        margin_clip=evidence.margin_clip,
        tau=evidence.tau,
        sample_mask=mask,
    )
    checks = [
        Check("data_gradient", split.data_gradient),
        Check("predicted_gradient", split.predicted_gradient),
        Check("reference_gradient", split.reference_gradient),
    ]
    if split.cosine is not None:
        checks.append(Check("gradient_cosine", split.cosine))
    draws = mask.sum(dim=1) + 2
    if int((draws >= MIN_DRAWS).sum()) < MIN_PROMPTS:
        return checks
    # rewards start at zero, so they are their own change over the whole of training
    changes = pair_changes(
        probe.rewards_PC,
        probe.rewards_PC,
        preference,
        loss=evidence.loss,
        margin_clip=evidence.margin_clip,
        tau=evidence.tau,
    )
    noise = reference_term_error(changes, pool=evidence.pool, sample_mask=mask)
    samples = mask.shape[1]
    return [
        *checks,
        Check("noise_share", noise.noise_share),
        Check("pair_share", noise.rho),
        Check("gain_kept", noise.gain_share(samples)),
        Check("suggested_samples", float(noise.suggested_samples), says=noise.meaning),
    ]
