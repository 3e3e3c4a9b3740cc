"""One diagnostic: its number, how sure it is, whether it alarms, and what that says."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from vrpo.contract.diagnostics import DIAGNOSTICS
from vrpo.statistics import Interval


@dataclass(frozen=True)
class Check:
    """A diagnostic of ``vrpo.contract.diagnostics`` with its value."""

    name: str
    value: float
    alarm: bool = False
    says: str = ""
    """What the value says of this job, and what to do; empty where there is nothing to add."""
    standard_error: float | None = None
    interval: Interval | None = None
    """95 %."""
    fault: str = ""
    """Which of several faults it is that alarms, for programs."""

    def __post_init__(self) -> None:
        assert self.name in DIAGNOSTICS, f"{self.name} is not in the catalogue of diagnostics"

    @property
    def shown(self) -> str:
        """The value as a sentence holds it: with its standard error, or its 95 % interval."""
        if self.standard_error is not None:
            return f"{self.value:.2f} ± {self.standard_error:.2f}"
        if self.interval is not None:
            return (
                f"{self.value:.2f}, 95 % interval {self.interval.low:.2f} to "
                f"{self.interval.high:.2f}"
            )
        return f"{self.value:.2f}"

    def as_json(self) -> dict[str, JsonValue]:
        """Return the check with its meaning and threshold; what is not finite is null."""
        about = DIAGNOSTICS[self.name]
        low, high = (self.interval.low, self.interval.high) if self.interval else (None, None)
        return {
            "name": self.name,
            "title": about.title,
            "meaning": about.meaning,
            "group": about.group.value,
            "unit": about.unit,
            "value": _finite(self.value),
            "standard_error": _finite(self.standard_error),
            "low": _finite(low),
            "high": _finite(high),
            "alarm_when": about.alarm,
            "state": "alarm" if self.alarm else "ok" if about.alarm else "shown",
            "says": self.says,
            "fault": self.fault,
        }


def find(checks: Iterable[Check], name: str) -> Check | None:
    """Return the check of that name, or None where the job has none."""
    return next((check for check in checks if check.name == name), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
