"""One running stage attempt from the controller's side: its actor, its spool, its output."""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from pydantic import JsonValue

from vrpo.contract.status import StageName
from vrpo.contract.task import Failed, SpoolRecord, Stopped, Succeeded
from vrpo.errors import WorkerLost
from workers.cluster import RunningActor
from workers.outcome import FailedStage
from workers.publishing import Published, publish

_SHORT_WAIT_S = 0.3
"""Small outputs are published within this, which saves a turn of the loop for each stage."""


class StageRun:
    """Reads the spool of an attempt in order and publishes what the stage left."""

    def __init__(
        self,
        *,
        name: StageName,
        key: str,
        attempt_id: int,
        number: int,
        actor: RunningActor,
        workdir: Path,
        last_seq: int = 0,
    ) -> None:
        self.name = name
        self.key = key
        self.attempt_id = attempt_id
        self.actor = actor
        self.last_seq = last_seq
        """The last record that the database has."""
        self._number = number
        self._workdir = workdir
        self._heard_at = time.monotonic()
        self._publishing: Future[Published] | None = None

    @property
    def failed(self) -> FailedStage:
        """What there is to say about the attempt when it fails."""
        return FailedStage(self.name, self.attempt_id, self._number, self._workdir.parent)

    @property
    def is_publishing(self) -> bool:
        """Whether the stage itself is over and its output is being made durable."""
        return self._publishing is not None

    def poll(self, *, silent_s: float) -> list[SpoolRecord]:
        """Return new records, perhaps none.

        Raises ``WorkerLost`` when the actor is dead, or has not answered for ``silent_s``.
        """
        answer = self.actor.ask(self.last_seq)
        now = time.monotonic()
        if answer is None:
            if now - self._heard_at > silent_s:
                raise WorkerLost(f"stage {self.name.value} has not answered for {silent_s:g} s")
            return []
        self._heard_at = now
        return [SpoolRecord.model_validate(record) for record in answer]

    def has_ended(self) -> bool:
        """Whether the stage is over or its actor gone; what it still sent is passed over."""
        try:
            answer = self.actor.ask(self.last_seq)
        except WorkerLost:
            return True
        records = [SpoolRecord.model_validate(record) for record in answer or ()]
        return self.is_publishing or split_end(records)[1] is not None

    def publish(
        self, threads: ThreadPoolExecutor, target: Path, summary: dict[str, JsonValue]
    ) -> None:
        """Begin to publish the output."""
        self._publishing = threads.submit(
            publish, self._workdir, target, stage=self.name, key=self.key, summary=summary
        )

    def published(self) -> Published | None:
        """Return the published output, or None while it is being written."""
        assert self._publishing is not None, "publish comes first"
        wait([self._publishing], timeout=_SHORT_WAIT_S)
        return self._publishing.result() if self._publishing.done() else None


def split_end(
    records: list[SpoolRecord],
) -> tuple[list[SpoolRecord], Succeeded | Failed | Stopped | None]:
    """Return the records to store, and how the stage ended if it did.

    The end is not stored with the others: it counts as read only once it has been acted on.
    """
    if records and isinstance(records[-1].body, Succeeded | Failed | Stopped):
        return records[:-1], records[-1].body
    return records, None
