"""The controller: claims jobs, gives each a slot of the cluster, and brings them to their end."""

import math
import threading
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from ray.exceptions import RayError
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from store import queue
from store.models import Job
from store.queue import Claim
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import JobStatus
from vrpo.contract.task import Failed
from workers import cluster
from workers.cluster import Slot
from workers.job_run import JobRun
from workers.outcome import Ending, fail, failure_of
from workers.stage_start import HeldJob, Surroundings

log = structlog.get_logger()

_POSITIONS_PERIOD_S = 2.0
_CPUS_PER_FURTHER_JOB = 4
_LONG_AGO = timedelta(days=1)
_SWEEP_PERIOD_S = 60.0


@dataclass
class _Leaving:
    """A job that is no longer ours, while its actors stop."""

    run: JobRun
    ending: Ending
    kill_at: float


class Controller:
    """Runs jobs until it is told to stop. One for each SQLite database."""

    def __init__(self, around: Surroundings, *, owner: str, is_sole: bool) -> None:
        self._around = around
        self._settings = around.settings
        self._sessions = around.sessions
        self._owner = owner
        self._is_sole = is_sole
        self._running: dict[str, JobRun] = {}
        self._leaving: list[_Leaving] = []
        self._positions_at = -math.inf
        self._swept_at = -math.inf
        largest = cluster.capacity()
        self._max_jobs = self._settings.max_running_jobs or (
            1 + max(0, int(largest.cpus) - 2) // _CPUS_PER_FURTHER_JOB
        )
        self._cpus = self._settings.cpus_per_job or max(1, int(largest.cpus) // self._max_jobs)

    def run(self, stop: threading.Event) -> None:
        """Take over what a former controller left, then work until ``stop`` is set."""
        if self._is_sole:
            self.take_over()
        while not stop.is_set():
            try:
                self.turn()
            except OperationalError as error:
                # A full disk or a database that is away: nothing was written, so try again.
                log.error("database is not available", error=str(error.orig))
                stop.wait(self._settings.poll_s)

    def take_over(self) -> None:
        """Go on with the jobs whose actors have outlived their controller; requeue the others.

        Only for a controller that knows all others to be dead.
        """
        with self._sessions.read() as session:
            held = queue.held_claims(session)
        for claim in held:
            slot = cluster.find_slot(
                job_id=claim.job_id, epoch=claim.epoch, poll_s=self._settings.poll_s
            )
            now = datetime.now(UTC)
            renewed_from = now if slot is not None else now - _LONG_AGO
            with self._sessions.begin() as session:
                queue.renew_lease(
                    session, claim.job_id, claim.epoch, renewed_from, self._settings.lease
                )
            if slot is not None:
                self._hold(claim, slot)
            log.info("took over a job", job_id=claim.job_id, goes_on=slot is not None)

    def turn(self) -> None:
        """Bring every job forward, claim new ones, and wait for news."""
        for run in list(self._running.values()):
            ending = self._tick(run)
            if ending is not None:
                self._let_go(run, ending)
        self._close_those_that_stopped()
        while len(self._running) + len(self._leaving) < self._max_jobs and self._claim():
            pass
        self._update_positions()
        self._sweep()
        actors = [actor for run in self._running.values() for actor in run.actors]
        cluster.wait_for_any(actors, timeout_s=self._settings.poll_s)

    def _tick(self, run: JobRun) -> Ending | None:
        try:
            return run.tick()
        except (OperationalError, RayError):
            raise
        except Exception as error:  # noqa: BLE001  # one job's fault must not end the others
            log.error("internal error", job_id=run.claim.job_id, trace=traceback.format_exc())
            return run.end_badly(
                Failed(
                    code="internal_error",
                    failure_class="internal",
                    message=f"{type(error).__name__}: {error}"[:2000],
                    retryable=False,
                )
            )

    def _let_go(self, run: JobRun, ending: Ending) -> None:
        del self._running[run.claim.job_id]
        run.stop()
        grace = self._settings.stop_grace_s if ending is Ending.FENCED else 0.0
        self._leaving.append(_Leaving(run, ending, kill_at=time.monotonic() + grace))
        log.info("job left", job_id=run.claim.job_id, epoch=run.claim.epoch, ending=ending.value)

    def _close_those_that_stopped(self) -> None:
        for leaving in list(self._leaving):
            if time.monotonic() >= leaving.kill_at or leaving.run.has_stopped():
                leaving.run.close(leaving.ending)
                self._leaving.remove(leaving)

    def _claim(self) -> bool:
        """Claim the next job, if there is one that the cluster has room for."""
        if self._waits_for_gpus():
            return False
        with self._sessions.begin() as session:
            claim = queue.claim_job(
                session,
                owner=self._owner,
                now=datetime.now(UTC),
                lease=self._settings.lease,
            )
        if claim is None:
            return False
        if claim.job_id in self._running:  # this process slept through its own lease
            self._let_go(self._running[claim.job_id], Ending.FENCED)
        try:
            slot = cluster.ask_for_slot(
                job_id=claim.job_id,
                epoch=claim.epoch,
                cpus=self._cpus,
                gpus=claim.spec.run.resources.gpus,
                poll_s=self._settings.poll_s,
            )
        except cluster.ResourcesUnavailable as error:
            with self._sessions.begin() as session:
                fail(session, claim, failure_of(error), None)
            return True
        log.info("job claimed", job_id=claim.job_id, epoch=claim.epoch)
        self._hold(claim, slot)
        return True

    def _hold(self, claim: Claim, slot: Slot) -> None:
        self._running[claim.job_id] = JobRun(HeldJob(claim, slot, self._around, self._cpus))

    def _waits_for_gpus(self) -> bool:
        """Whether the next job must wait for GPUs that another one has, and say so."""
        with self._sessions.read() as session:
            spec = session.scalar(
                select(Job.spec)
                .where(Job.status == JobStatus.QUEUED)
                .order_by(Job.priority.desc(), Job.seq)
                .limit(1)
            )
        if spec is None:
            return False
        asked = JobSpec.model_validate(spec).run.resources.gpus
        if asked == 0 or asked > cluster.capacity().gpus:
            return False
        free = cluster.free_gpus()
        if asked <= free:
            return False
        self._update_positions(
            reason=f"waiting for GPUs: the next job asks for {asked}, {free:g} are free"
        )
        return True

    def _update_positions(self, reason: str = "waiting for a running job to end") -> None:
        if time.monotonic() - self._positions_at > _POSITIONS_PERIOD_S:
            self._positions_at = time.monotonic()
            with self._sessions.begin() as session:
                queue.update_queue_positions(session, reason=reason)

    def _sweep(self) -> None:
        """Release slots that no claim needs: their controller died, or lost the job, before."""
        if time.monotonic() - self._swept_at < _SWEEP_PERIOD_S:
            return
        self._swept_at = time.monotonic()
        names = cluster.slot_names()  # before the claims: a slot is always younger than its claim
        with self._sessions.read() as session:
            needed = {(claim.job_id, claim.epoch) for claim in queue.held_claims(session)}
        needed |= {(leaving.run.claim.job_id, leaving.run.claim.epoch) for leaving in self._leaving}
        cluster.release_slots(names - {cluster.slot_name(*each) for each in needed})
