"""Starting a stage, finding it computed, or taking it up where a former controller left it."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from store import attempts, jobs, stage_cache, transitions
from store.models import Attempt
from store.queue import Claim
from store.session import Sessions
from vrpo.contract.status import AttemptStatus, StageName, StageStatus
from vrpo.contract.task import StageTask
from vrpo.errors import OutOfMemory, WorkerLost
from workers.cluster import RunningActor, Slot
from workers.inputs import JobInputs
from workers.models import FileDigests
from workers.pipeline import Pipeline, StageOutput, fine_tuned_name
from workers.reports import SPOOL_FILE
from workers.settings import WorkerSettings
from workers.stage_run import StageRun


@dataclass(frozen=True)
class Surroundings:
    """What all jobs of a controller share."""

    sessions: Sessions
    settings: WorkerSettings
    threads: ThreadPoolExecutor
    """For reading and writing large files beside the loop."""
    digests: FileDigests


@dataclass(frozen=True)
class HeldJob:
    """A claimed job, the resources it holds and where its files are."""

    claim: Claim
    slot: Slot
    around: Surroundings
    cpus: int

    @property
    def folder(self) -> Path:
        """Folder of the job's attempts and scratch files."""
        return self.around.settings.artifacts / "jobs" / self.claim.job_id

    def gpus_of(self, pipeline: Pipeline, name: StageName) -> float:
        """Return the GPUs of a stage; two stages that run together can share a single one."""
        asked = self.claim.spec.run.resources.gpus
        return asked / 2 if asked == 1 and pipeline.shares_machine(name) else float(asked)


def take_up(job: HeldJob, inputs: JobInputs) -> tuple[Pipeline, list[StageRun]]:
    """Return the pipeline as the database knows it, and the stages whose actors still run.

    Raises ``WorkerLost`` when an actor that should run is gone.
    """
    claim = job.claim
    pipeline = Pipeline(claim, inputs, fine_tuned_name(claim))
    with job.around.sessions.read() as session:
        for stage in jobs.stages_of(session, claim.job_id):
            if stage.status is StageStatus.SUCCEEDED:
                assert stage.key is not None, "a stage that succeeded has its key"
                found = stage_cache.lookup(session, claim.tenant_id, stage.key)
                assert found is not None, "a stage that succeeded has its output recorded"
                pipeline.done[stage.name] = StageOutput(stage.key, found.path, found.summary)
        still_open = [
            attempt
            for attempt in attempts.of_job(session, claim.job_id)
            if attempt.status is AttemptStatus.RUNNING and attempt.epoch == claim.epoch
        ]
    found_again = [_find(job, pipeline, attempt) for attempt in still_open]
    pipeline.active |= {stage.name for stage in found_again}
    return pipeline, found_again


def reuse(job: HeldJob, pipeline: Pipeline, name: StageName) -> StageOutput | None:
    """Mark a ready stage as done whose key has been computed before; None if it has not been."""
    claim, key = job.claim, pipeline.key(name)
    with job.around.sessions.read() as session:
        found = stage_cache.lookup(session, claim.tenant_id, key)
    if found is None or not found.path.is_dir():
        return None
    with job.around.sessions.begin() as session:
        transitions.move_stage(
            session,
            claim.job_id,
            claim.epoch,
            name,
            StageStatus.PENDING,
            StageStatus.SUCCEEDED,
            cached=True,
            key=key,
            summary=found.summary,
        )
    return StageOutput(key, found.path, found.summary)


def start(
    job: HeldJob, pipeline: Pipeline, name: StageName, *, standby: RunningActor | None
) -> StageRun:
    """Start a ready stage, in the actor that stands by for it or in a new one."""
    claim = job.claim
    workdir = job.folder / "attempts" / str(claim.epoch) / name.value / "output"
    scratch = job.folder / "scratch" / name.value
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(mode=0o700, parents=True)
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = pipeline.key(name)
    with job.around.sessions.begin() as session:
        former = attempts.of_job(session, claim.job_id)
        transitions.move_stage(
            session,
            claim.job_id,
            claim.epoch,
            name,
            StageStatus.PENDING,
            StageStatus.RUNNING,
            key=key,
        )
        attempt = attempts.start_attempt(
            session, claim.job_id, claim.epoch, name, job.slot.actor_name(name), str(workdir)
        )
    gpus = job.gpus_of(pipeline, name)
    workers = pipeline.workers_of(name)
    actor = standby or job.slot.create(name, num_gpus=gpus, num_workers=workers)
    task = _task(job, pipeline, name, workdir, scratch, halvings=times_out_of_memory(former, name))
    actor.start(task, former=_spool_before(former, name))
    pipeline.active.add(name)
    return _stage_run(attempt, key=key, actor=actor)


def times_out_of_memory(former: Sequence[Attempt], stage: StageName) -> int:
    """Return how many of these attempts at the stage ran out of memory."""
    return sum(attempt.stage is stage and attempt.reason == OutOfMemory.code for attempt in former)


def _spool_before(former: Sequence[Attempt], stage: StageName) -> tuple[str, int] | None:
    latest = [attempt for attempt in former if attempt.stage is stage][-1:]
    for attempt in latest:
        return str(Path(attempt.workdir).parent / SPOOL_FILE), attempt.last_seq
    return None


def _task(
    job: HeldJob,
    pipeline: Pipeline,
    name: StageName,
    workdir: Path,
    scratch: Path,
    *,
    halvings: int,
) -> StageTask:
    share = 2 if pipeline.shares_machine(name) else 1
    return pipeline.task(
        name,
        workdir=workdir,
        scratch=scratch,
        num_threads=max(1, job.cpus // share),
        num_gpus=job.gpus_of(pipeline, name),
        halvings=halvings,
    )


def _find(job: HeldJob, pipeline: Pipeline, attempt: Attempt) -> StageRun:
    actor = job.slot.find(attempt.stage)
    if actor is None:
        raise WorkerLost(f"the actor of stage {attempt.stage.value} is gone")
    return _stage_run(attempt, key=pipeline.key(attempt.stage), actor=actor)


def _stage_run(attempt: Attempt, *, key: str, actor: RunningActor) -> StageRun:
    return StageRun(
        name=attempt.stage,
        key=key,
        attempt_id=attempt.id,
        number=attempt.number,
        actor=actor,
        workdir=Path(attempt.workdir),
        last_seq=attempt.last_seq,
    )
