"""The folder through which the workers of a stage and its actor speak to each other."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from vrpo.contract.task import Body, Failed, Progress, Stopped, Succeeded
from workers.reports import Pace
from workers.running import End

FOLDER = "team"
STOP = "stop"
OUTCOME = "outcome.json"

_body: TypeAdapter[Body] = TypeAdapter(Body)
_end: TypeAdapter[End] = TypeAdapter(
    Annotated[Succeeded | Failed | Stopped, Field(discriminator="kind")]
)


class TeamWriter:
    """Writes the first worker's reports, to a file of its own for each start of the workers."""

    def __init__(self, folder: Path) -> None:
        self.number = len(list(folder.glob("reports-*.jsonl"))) + 1
        """1 at the first start; more after a worker has died."""
        path = folder / f"reports-{self.number:04d}.jsonl"
        self._file = path.open("x", encoding="utf-8")
        self._pace = Pace()

    def append(self, body: Body) -> None:
        """Write one record, whole and at once."""
        self._file.write(body.model_dump_json() + "\n")
        self._file.flush()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Write progress, unless it was just written and there is more to do."""
        if self._pace.is_due(done, total):
            self.append(Progress(done=done, total=total, unit=unit))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class NoReports:
    """What the other workers report to: all would say the same."""

    def append(self, body: Body) -> None:
        """Keep nothing."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Keep nothing."""


class TeamReader:
    """Reads what the first worker of every start has written, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}

    def new(self) -> Iterator[Body]:
        """Yield the records that have come since the last call.

        A line that its writer's death cut short is never whole, and so is passed over.
        """
        for path in sorted(self._folder.glob("reports-*.jsonl")):
            with path.open("rb") as lines:
                lines.seek(self._read.get(path, 0))
                content = lines.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in whole.splitlines():
                yield _body.validate_json(line)


def write_outcome(folder: Path, end: End, *, rank: int) -> None:
    """Record how the stage ended; an outcome that is there already stays."""
    partial = folder / f".outcome-{rank}"
    partial.write_text(end.model_dump_json(), encoding="utf-8")
    try:
        os.link(partial, folder / OUTCOME)
    except FileExistsError:
        return


def read_outcome(folder: Path) -> End | None:
    """Return how the stage ended, or None where no worker has said so."""
    path = folder / OUTCOME
    return _end.validate_json(path.read_bytes()) if path.exists() else None
