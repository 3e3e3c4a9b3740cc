"""The diagnostics of a job, each a number with its error, its state and what to do about it."""

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
    """Return every diagnostic for which the job left something to compute it from."""
    return [
        *correction_checks(evidence),
        *preference_checks(evidence),
        *reference_checks(evidence),
        *training_checks(evidence),
        *policy_checks(evidence),
    ]
