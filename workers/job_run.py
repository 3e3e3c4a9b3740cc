"""One job that this controller holds, from the claim to its end.

``tick`` is called again and again by the controller; it never waits for long. Database work is in
short transactions, each guarded by the job's epoch; no Ray call is made inside one.
"""

import shutil
import time
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta

import structlog

from store import attempts, jobs, queue, spool, stage_cache, transitions
from store.errors import StaleTransition
from vrpo.contract.status import AttemptStatus, StageName, StageStatus
from vrpo.contract.task import Failed, SpoolRecord, Succeeded
from vrpo.errors import DeadlineExceeded, VrpoError, WorkerLost
from workers.cluster import RunningActor
from workers.inputs import JobInputs, resolve_inputs
from workers.outcome import Ending, fail, failure_of, is_retried, requeue, succeed
from workers.pipeline import Pipeline, StageOutput
from workers.publishing import output_folder
from workers.stage_run import StageRun, split_end
from workers.stage_start import HeldJob, reuse, start, take_up, times_out_of_memory

log = structlog.get_logger()

_SHORT_WAIT_S = 0.3
_RENEWALS_PER_LEASE = 3


class JobRun:
    """Brings one claimed job to its end, or gives it back."""

    def __init__(self, job: HeldJob) -> None:
        self.claim = job.claim
        self._job = job
        self._sessions = job.around.sessions
        self._active: dict[StageName, StageRun] = {}
        self._standby: dict[StageName, RunningActor] = {}
        self._pipeline: Pipeline | None = None
        self._deadline: datetime | None = None
        self._renewed_at = time.monotonic()
        self._log = log.bind(job_id=job.claim.job_id, epoch=job.claim.epoch)
        self._inputs: Future[JobInputs] = job.around.threads.submit(
            resolve_inputs,
            job.claim,
            job.around.sessions,
            models_file=job.around.settings.models_file,
            digests=job.around.digests,
        )

    @property
    def actors(self) -> list[RunningActor]:
        """The actors whose answers are awaited."""
        return [stage.actor for stage in self._active.values() if not stage.is_publishing]

    def tick(self) -> Ending | None:
        """Do what can be done now; returns how the job left this controller once it has."""
        try:
            return self._tick()
        except StaleTransition as stale:
            self._log.info("job is no longer ours", reason=stale.message)
            return Ending.FENCED
        except VrpoError as error:
            return self.end_badly(failure_of(error))

    def end_badly(self, failure: Failed, stage: StageRun | None = None) -> Ending:
        """Give the job back for another try, or end it as failed."""
        self._log.warning(
            "stage failed" if stage else "job failed",
            stage=stage.name.value if stage else None,
            code=failure.code,
            message=failure.message,
        )
        claim = self.claim
        failed = None if stage is None else stage.failed
        try:
            with self._sessions.begin() as session:
                former = attempts.of_job(session, claim.job_id)
                if is_retried(
                    failure,
                    restarts=claim.restarts,
                    max_restarts=claim.spec.run.max_restarts,
                    out_of_memory=0 if stage is None else times_out_of_memory(former, stage.name),
                ):
                    requeue(session, claim, failure, failed)
                    return Ending.REQUEUED
                fail(session, claim, failure, failed)
                return Ending.FAILED
        except StaleTransition:
            return Ending.FENCED

    def stop(self) -> None:
        """Ask every running stage to stop at its next step."""
        for stage in self._active.values():
            stage.actor.stop()

    def has_stopped(self) -> bool:
        """Whether every stage has ended, after ``stop``."""
        return all(stage.has_ended() for stage in self._active.values())

    def close(self, ending: Ending) -> None:
        """Give the slot back, which ends every actor, and remove what nobody needs any more."""
        self._job.slot.release()
        left = AttemptStatus.LOST if ending is Ending.REQUEUED else AttemptStatus.CANCELLED
        with self._sessions.begin() as session:
            for stage in self._active.values():
                attempts.finish(session, stage.attempt_id, left, reason=ending.value)
            job = jobs.get(session, self.claim.tenant_id, self.claim.job_id)
        if job.status.is_terminal:
            shutil.rmtree(self._job.folder / "scratch", ignore_errors=True)

    def _tick(self) -> Ending | None:
        if self._job.slot.is_granted() and (self._pipeline is not None or self._begin()):
            for stage in list(self._active.values()):
                ending = self._follow(stage)
                if ending is not None:
                    return ending
            ending = self._advance()
            if ending is not None:
                return ending
        return self._keep()

    def _begin(self) -> bool:
        """Take up the job where the database says it is; False while its inputs are being read."""
        wait([self._inputs], timeout=_SHORT_WAIT_S)
        if not self._inputs.done():
            return False
        pipeline, running = take_up(self._job, self._inputs.result())
        with self._sessions.read() as session:
            started = jobs.running_since(session, self.claim.job_id)
        assert started is not None, "a claimed job has been started"
        self._deadline = started + timedelta(seconds=self.claim.spec.run.max_runtime_s)
        self._pipeline = pipeline
        self._active = {stage.name: stage for stage in running}
        self._log.info("job taken up", done=len(pipeline.done), running=len(running))
        return True

    def _follow(self, stage: StageRun) -> Ending | None:
        """Store what a stage has reported, and act on its end."""
        if stage.is_publishing:
            self._finish_if_published(stage)
            return None
        try:
            records, end = split_end(stage.poll(silent_s=self._job.around.settings.silent_s))
        except WorkerLost as lost:
            return self.end_badly(failure_of(lost), stage)
        if records and not self._store(stage, records):
            return Ending.FENCED
        if end is None:
            return None
        if isinstance(end, Succeeded):
            target = output_folder(self._job.around.settings.artifacts, stage.key)
            stage.publish(self._job.around.threads, target, end.summary)
            self._finish_if_published(stage)
            return None
        if isinstance(end, Failed):
            return self.end_badly(end, stage)
        unasked = WorkerLost(f"stage {stage.name.value} stopped, but nobody had asked it to")
        return self.end_badly(failure_of(unasked), stage)

    def _store(self, stage: StageRun, records: list[SpoolRecord]) -> bool:
        with self._sessions.begin() as session:
            is_ours = spool.apply_records(
                session,
                job_id=self.claim.job_id,
                epoch=self.claim.epoch,
                stage=stage.name,
                records=records,
                now=datetime.now(UTC),
                lease=self._job.around.settings.lease,
            )
        stage.last_seq = records[-1].seq
        self._renewed_at = time.monotonic()
        return is_ours

    def _finish_if_published(self, stage: StageRun) -> None:
        published = stage.published()
        if published is None:
            return
        claim = self.claim
        with self._sessions.begin() as session:
            transitions.move_stage(
                session,
                claim.job_id,
                claim.epoch,
                stage.name,
                StageStatus.RUNNING,
                StageStatus.SUCCEEDED,
                key=stage.key,
                summary=published.summary,
            )
            stage_cache.record(
                session,
                claim.tenant_id,
                stage.key,
                stage.name,
                published.path,
                published.files,
                published.summary,
                claim.job_id,
            )
            attempts.finish(session, stage.attempt_id, AttemptStatus.SUCCEEDED)
        stage.actor.kill()
        del self._active[stage.name]
        self._done(stage.name, StageOutput(stage.key, published.path, published.summary))

    def _advance(self) -> Ending | None:
        """Start, or find computed, every stage that is ready; end the job after the last."""
        pipeline = self._pipeline
        assert pipeline is not None
        while ready := pipeline.ready():
            for name in ready:
                found = reuse(self._job, pipeline, name)
                if found is not None:
                    self._done(name, found)
                else:
                    standby = self._standby.pop(name, None)
                    self._active[name] = start(self._job, pipeline, name, standby=standby)
                    self._log.info("stage started", stage=name.value)
        if pipeline.is_complete:
            with self._sessions.begin() as session:
                succeed(session, self.claim, pipeline)
            return Ending.SUCCEEDED
        self._stand_by(pipeline)
        return None

    def _stand_by(self, pipeline: Pipeline) -> None:
        """Create the actors of the next stages early, so that their libraries load meanwhile.

        Not on GPUs: an actor that waits would hold a share of the memory it waits for.
        """
        if self.claim.spec.run.resources.gpus == 0:
            for name in pipeline.soon():
                if name not in self._standby:
                    workers = pipeline.workers_of(name)
                    self._standby[name] = self._job.slot.create(
                        name, num_gpus=0, num_workers=workers
                    )
        for name, actor in list(self._standby.items()):
            try:
                actor.ask(0)  # an actor that nobody asks for ten minutes takes itself for forgotten
            except WorkerLost:
                self._log.info("an actor that waited has died", stage=name.value)
                del self._standby[name]

    def _done(self, name: StageName, output: StageOutput) -> None:
        assert self._pipeline is not None
        self._pipeline.active.discard(name)
        self._pipeline.done[name] = output
        self._log.info("stage done", stage=name.value)

    def _keep(self) -> Ending | None:
        """Renew the lease when it is time; notice a cancellation or a deadline."""
        claim, lease = self.claim, self._job.around.settings.lease
        with self._sessions.read() as session:
            is_ours = jobs.is_current(session, claim.job_id, claim.epoch)
        if (
            is_ours
            and time.monotonic() - self._renewed_at > lease.total_seconds() / _RENEWALS_PER_LEASE
        ):
            with self._sessions.begin() as session:
                now = datetime.now(UTC)
                is_ours = queue.renew_lease(session, claim.job_id, claim.epoch, now, lease)
            self._renewed_at = time.monotonic()
        if not is_ours:
            return Ending.FENCED
        if self._deadline is not None and datetime.now(UTC) > self._deadline:
            raise DeadlineExceeded(
                f"the job ran longer than run.max_runtime_s = {claim.spec.run.max_runtime_s} s"
            )
        return None
