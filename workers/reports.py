"""The spool: the numbered, append-only report of one stage attempt.

The actor appends, the controller polls. A record is kept in memory until a poll asks for what
comes after it, and in ``spool.jsonl`` of the attempt's folder for the person who looks later.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from pydantic import JsonValue

from vrpo.contract.task import Body, Checkpoint, Metrics, Progress, SpoolRecord

SPOOL_FILE = "spool.jsonl"
RECORDS_PER_POLL = 2000
"""So that one poll is one short transaction, however fast the stage reports."""
PROGRESS_PERIOD_S = 0.25
"""Progress is for people; more often than this is noise."""


class Pace:
    """Tells which progress is worth a record."""

    def __init__(self) -> None:
        self._last_at = -math.inf

    def is_due(self, done: int, total: int) -> bool:
        """Return whether the last one is old enough, or there is no more to do."""
        now = time.monotonic()
        if done < total and now - self._last_at < PROGRESS_PERIOD_S:
            return False
        self._last_at = now
        return True


class Spool:
    """Appends records and answers what came after a given number. Safe between threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._lock = threading.Lock()
        self._unread: deque[SpoolRecord] = deque()
        self._last_seq = 0
        self._pace = Pace()

    def append(self, body: Body) -> None:
        """Number the record, write it to the file and keep it until it has been read."""
        with self._lock:
            self._last_seq += 1
            record = SpoolRecord(seq=self._last_seq, at=time.time(), body=body)
            self._file.write(record.model_dump_json() + "\n")
            self._file.flush()
            self._unread.append(record)

    def close(self) -> None:
        """Close the file; what has been appended can still be asked for."""
        self._file.close()

    def progress(self, done: int, total: int, unit: str) -> None:
        """Append progress, unless it was just reported and there is more to do."""
        if self._pace.is_due(done, total):
            self.append(Progress(done=done, total=total, unit=unit))

    def after(self, seq: int) -> list[dict[str, JsonValue]]:
        """Return the records that follow ``seq``, and forget those up to it."""
        with self._lock:
            while self._unread and self._unread[0].seq <= seq:
                self._unread.popleft()
            first = list(islice(self._unread, RECORDS_PER_POLL))
        return [record.model_dump(mode="json") for record in first]


def unread_metrics(path: Path, *, after_seq: int) -> list[Metrics | Checkpoint]:
    """Return the metrics and checkpoints of a dead attempt's spool that nobody had polled.

    The attempt that follows resumes behind them and would leave a gap. The last line is passed
    over when the death cut it short.
    """
    if not path.is_file():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(True) if line[-1] == "\n"]
    records = [SpoolRecord.model_validate_json(line) for line in lines]
    return [
        record.body
        for record in records
        if record.seq > after_seq and isinstance(record.body, Metrics | Checkpoint)
    ]


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return the values with null for every one that JSON and databases cannot hold."""
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
