"""The numbers that a stage reports, kept beside its outputs: what the report draws curves from.

They are written where they outlive the attempt, so that a stage that resumes has all of its steps.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SERIES: Final = "metrics.jsonl"

Point = tuple[int, dict[str, float]]


class SeriesFile:
    """Appends what is reported to a file in the stage's scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._path = scratch / SERIES
        former = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # a process that was killed may have left half a line
        self._path.write_text(former[: former.rfind("\n") + 1], encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Append the numbers of a step; those that are not finite are left out."""
        finite = {name: float(v) for name, v in values.items() if math.isfinite(v)}
        with self._path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, "values": finite}) + "\n")

    def publish(self, folder: Path) -> None:
        """Write every step once, in order; of a step that was taken again, the last numbers."""
        steps: dict[int, dict[str, float]] = {}
        for step, values in _read(self._path):
            steps.setdefault(step, {}).update(values)
        lines = (json.dumps({"step": step, "values": steps[step]}) for step in sorted(steps))
        (folder / SERIES).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_series(folder: str | Path) -> list[Point]:
    """Return (step, name -> value) of a stage's output folder, in the order of the steps."""
    path = Path(folder) / SERIES
    return _read(path) if path.exists() else []


def _read(path: Path) -> list[Point]:
    with path.open(encoding="utf-8") as lines:
        return [(value["step"], value["values"]) for value in map(json.loads, lines)]
