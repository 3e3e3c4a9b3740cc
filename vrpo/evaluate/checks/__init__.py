"""The diagnostics of a job, each a number with its error, its state and what to do about it."""

from dataclasses import replace

import torch

from vrpo.evaluate.checks.check import Check, find
from vrpo.evaluate.checks.correction import correction_checks
from vrpo.evaluate.checks.evidence import ControlStatistics, Evidence, Probe, Samples, Scores
from vrpo.evaluate.checks.policy import policy_checks
from vrpo.evaluate.checks.preference import preference_checks
from vrpo.evaluate.checks.reference import reference_checks
from vrpo.evaluate.checks.training import training_checks

__all__ = [
    "Check",
    "ControlStatistics",
    "Evidence",
    "Probe",
    "Samples",
    "Scores",
    "all_checks",
    "find",
]


def all_checks(evidence: Evidence) -> list[Check]:
    """Return every diagnostic for which the job left something to compute it from.

    A final model that gives values which are not finite alarms as such, and nothing else is
    computed from them.
    """
    usable, probe = evidence, evidence.probe
    if probe is not None and not bool(torch.isfinite(probe.rewards_PC).all()):
        usable = replace(evidence, probe=None)
    return [
        *correction_checks(usable),
        *preference_checks(usable),
        *reference_checks(usable),
        *training_checks(evidence),
        *policy_checks(usable),
    ]
