"""The checks of a VRPO job: is the correction helping, is pi_ref right, is p_eta right."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from vrpo.contract.methods import VrpoMethod
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import StageName
from vrpo.diagnostics import balance_test, predicted_variance_ratio

VARIANCE_RATIO: Final = "predicted variance ratio"
MIN_PROMPTS: Final = 32
"""Fewer probed prompts than this say nothing about a variance."""


@dataclass(frozen=True)
class Check:
    """One number or a few, whether they are alarming, and what they mean."""

    name: str
    value: Any
    alarm: bool
    meaning: str


def diagnostic_checks(
    spec: JobSpec, summaries: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, str]
) -> list[Check]:
    """Return the checks of a job from its stages' summaries and output folders; none for DPO."""
    if not isinstance(spec.method, VrpoMethod):
        return []
    checks = _preference_checks(summaries[StageName.FIT_PREFERENCE])
    sampled = summaries[StageName.SAMPLE_REFERENCE]
    if "cut_off_share" in sampled:
        meaning = (
            "share that reached reference.max_new_tokens; the labelled completions should be cut "
            "off as often"
        )
        checks.append(Check("samples cut off", sampled["cut_off_share"], False, meaning))
    checks += [Check(**check) for check in summaries[StageName.SCORE].get("checks", [])]
    trained = summaries[StageName.TRAIN_POLICY]
    weight = trained["control_weight"]
    meaning = "lambda at the end of training; near 0, the preference model was of no use"
    checks.append(Check("control weight", weight, False, meaning))
    return checks + _gradient_checks(Path(outputs[StageName.TRAIN_POLICY]), weight)


def _preference_checks(fitted: Mapping[str, Any]) -> list[Check]:
    coin = fitted["nll"] >= 0.6931
    temperature = fitted["temperature"]
    return [
        Check(
            "preference model, held-out accuracy",
            fitted["accuracy"],
            coin,
            "no better than a coin on pairs it has not seen: the correction adds noise; use a "
            "stronger backbone, or control_weight auto or 0"
            if coin
            else "it knows something about pairs it has not seen",
        ),
        Check(
            "preference model, temperature",
            temperature,
            not 0.5 <= temperature <= 2,
            "what its logits were divided by; far from 1, they were badly scaled",
        ),
    ]


def _gradient_checks(folder: Path, weight: float) -> list[Check]:
    kept = json.loads((folder / "control.json").read_text(encoding="utf-8"))["statistics"]
    if len(kept) < MIN_PROMPTS:
        return []
    pairs_N2 = torch.tensor(kept, dtype=torch.float64)
    a, d = pairs_N2[:, 0], pairs_N2[:, 1]
    if not bool(a.std() > 0):
        return []
    found = predicted_variance_ratio(a, d, control_weight=weight)
    balance = balance_test(d)
    ratio = {"ratio": found.ratio, "standard_error": found.standard_error, "prompts": len(kept)}
    return [
        Check(VARIANCE_RATIO, ratio, found.alarm, found.meaning),
        Check(
            "balance of labelled and sampled pairs (p)",
            balance.p_value,
            balance.alarm,
            balance.meaning,
        ),
    ]
