"""The diagnostics of a report: what each one measures, and when it alarms.

``docs/report.md`` says what to do about each alarm.
"""

from collections.abc import Mapping

from vrpo.contract.correction_diagnostics import CORRECTION
from vrpo.contract.diagnostic import Diagnostic, Group
from vrpo.contract.policy_diagnostics import POLICY, TRAINING
from vrpo.contract.preference_diagnostics import PREFERENCE
from vrpo.contract.reference_diagnostics import REFERENCE

__all__ = ["DIAGNOSTICS", "Diagnostic", "Group"]

DIAGNOSTICS: Mapping[str, Diagnostic] = {
    **CORRECTION,
    **PREFERENCE,
    **REFERENCE,
    **TRAINING,
    **POLICY,
}
"""Name -> diagnostic; reported as ``diagnostics/name``."""
