"""What a diagnostic of a report is: a number with a meaning, and when it alarms."""

from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """What a diagnostic is about; the report has a table for each."""

    CORRECTION = "Is the correction helping?"
    PREFERENCE = "Is the preference model right?"
    REFERENCE = "Is the reference policy right?"
    TRAINING = "Is anything running away?"
    POLICY = "What has become of the policy?"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One number of the report."""

    title: str
    meaning: str
    group: Group
    alarm: str = ""
    """When it alarms; empty for a number that is only shown."""
    unit: str = "1"
