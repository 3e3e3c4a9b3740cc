"""The report of a job as JSON: the verdict, every diagnostic, the evaluation and the curves."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import torch

from vrpo.evaluate.checks import Evidence, all_checks
from vrpo.evaluate.verdict import verdict
from vrpo.preference.calibration import reliability_curve

MOST_STEPS: Final = 400
"""Points of a curve that are kept; more are averaged over neighbours."""
SHOWN_SAMPLES: Final = 8
ROUNDING: Final = 1e-6
CURVES: Final[Mapping[str, tuple[str, ...]]] = {
    "Loss": ("loss", "vrpo/observed", "vrpo/predicted", "vrpo/resampled"),
    "Reward margin": ("rewards/margins",),
    "Rewards": ("rewards/chosen", "rewards/rejected", "rewards/sampled"),
    "Score of the policy's completions": ("objective/scores",),
    "Reward minus KL of the policy's completions": ("objective/rlhf_reward",),
    "Reward accuracy": ("rewards/accuracies",),
    "Control weight lambda": ("vrpo/control_weight",),
    "KL(policy || reference)": ("objective/kl",),
    "Entropy for each token": ("entropy",),
    "Length of completions": ("completions/mean_length",),
    "Gradient norm": ("grad_norm",),
    "Margins at the clip": ("vrpo/clipped",),
}
"""Title -> the reported numbers that are drawn together, where a stage reports them."""
ERRORS: Final[Mapping[str, str]] = {"vrpo/control_weight": "vrpo/control_weight_se"}
DRAWN_STAGES: Final = ("fit_reference", "train_reward", "train_policy")


def build_report(
    evidence: Evidence,
    *,
    summaries: Mapping[str, Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the report as JSON values; ``samples`` are contests to show."""
    spec = evidence.spec
    checks = all_checks(evidence)
    found = verdict(evidence, checks)
    return {
        "verdict": found.text,
        "sentences": list(found.sentences),
        "cause": found.cause,
        "tone": found.tone.value,
        "method": spec.method.type,
        "model": spec.model,
        "options": spec.method.model_dump(mode="json")[spec.method.type],
        "hyperparameters": spec.hyperparameters.model_dump(mode="json"),
        "run": spec.run.model_dump(mode="json"),
        "seed": spec.seed,
        "train_rows": evidence.train_rows,
        "evaluation": dict(evidence.evaluation),
        "checks": [check.as_json() for check in checks],
        "alarms": [check.name for check in checks if check.alarm],
        "reliability": _reliability(evidence),
        "curves": _curves(evidence),
        "samples": [dict(sample) for sample in samples],
        "stages": {stage: dict(summary) for stage, summary in summaries.items()},
    }


def _reliability(evidence: Evidence) -> list[dict[str, Any]]:
    scores = evidence.scores
    if scores is None or scores.preference_NCC is None or not len(scores.label_N):
        return []
    logits_N = torch.logit(scores.preference_NCC[:, 0, 1].double(), eps=1e-7)
    return [asdict(part) for part in reliability_curve(logits_N, scores.label_N.clamp(0, 1))]


def _curves(evidence: Evidence) -> list[dict[str, Any]]:
    """Return one plot for each stage and title: its lines as [step, value] or [step, value, se].

    A control weight that was set, and not estimated, has no error.
    """
    is_estimated = evidence.vrpo is not None and evidence.vrpo.control_weight == "auto"
    errors = ERRORS if is_estimated else {}
    plots = []
    for stage in DRAWN_STAGES:
        points = evidence.series.get(stage, ())
        for title, names in CURVES.items():
            lines = {name: line for name in names if (line := _line(points, name, errors))}
            if lines and not _is_nothing(lines):
                plots.append({"stage": stage, "title": title, "lines": lines})
    return plots


def _is_nothing(lines: Mapping[str, list[list[float]]]) -> bool:
    """Whether a loss is the rounding error of zero: that of on-policy optimisation, by design."""
    return set(lines) == {"loss"} and all(abs(point[1]) < ROUNDING for point in lines["loss"])


def _line(
    points: Sequence[tuple[int, Mapping[str, float]]], name: str, errors: Mapping[str, str]
) -> list[list[float]]:
    error = errors.get(name)
    line = [
        [float(step), values[name], *([values.get(error, 0.0)] if error else [])]
        for step, values in points
        if name in values
    ]
    count = len(line)
    if count <= MOST_STEPS:
        return line
    bounds = [count * place // MOST_STEPS for place in range(MOST_STEPS + 1)]
    runs = [line[bounds[place] : bounds[place + 1]] for place in range(MOST_STEPS)]
    return [
        [run[-1][0], *(sum(column) / len(run) for column in list(zip(*run, strict=True))[1:])]
        for run in runs
    ]
