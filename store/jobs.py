"""Jobs: made, listed, read and cancelled, always within one tenant."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from store import changes, events, transitions
from store.errors import IdempotencyKeyReused, InvalidJobState, JobNotFound
from store.ids import new_id
from store.models import Checkpoint, IdempotencyKey, Job, JobMetadata, Stage, Tenant
from store.paging import Page, page_of, position
from vrpo.contract.pipeline import plan
from vrpo.contract.spec import CreateJob, JobSpec, resolve
from vrpo.contract.status import JobStatus, StageName, StageStatus

RETRY_WINDOW = timedelta(minutes=10)
"""For how long an equal body that says it is a retry gets the job the first one made."""


def create(
    session: Session,
    tenant: str,
    request: CreateJob,
    *,
    body_sha256: str,
    idempotency_key: str | None = None,
    is_retry: bool = False,
) -> Job:
    """Store a job with all its stages, queued; or return the one this request made before.

    The files and models it names have been checked by the caller. Raises
    ``IdempotencyKeyReused`` when the key came with another body before.
    """
    # One creation at a time in a tenant, so that equal requests see each other on Postgres too.
    session.execute(select(Tenant.id).where(Tenant.id == tenant).with_for_update())
    former = made_before(
        session, tenant, body_sha256, idempotency_key=idempotency_key, is_retry=is_retry
    )
    if former is not None:
        return former
    spec = resolve(request, seed=secrets.randbelow(2**31))
    now = datetime.now(UTC)
    job = Job(
        id=new_id("ftjob-"),
        tenant_id=tenant,
        status=JobStatus.QUEUED,
        priority=spec.run.priority,
        spec=spec.model_dump(mode="json"),
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        body_sha256=body_sha256,
        created_at=now,
        queue_position=_place_of_newcomer(session, spec.run.priority),
        queue_reason="waiting for the controller",
    )
    session.add(job)
    session.flush()
    session.add_all(
        Stage(job_id=job.id, name=stage.name, position=place, status=StageStatus.PENDING)
        for place, stage in enumerate(plan(spec))
    )
    session.add_all(
        JobMetadata(job_id=job.id, key=key, value=value)
        for key, value in (spec.metadata or {}).items()
    )
    if idempotency_key is not None:
        session.add(
            IdempotencyKey(
                tenant_id=tenant,
                key=idempotency_key,
                body_sha256=body_sha256,
                job_id=job.id,
                created_at=now,
            )
        )
    session.flush()
    events.add(session, job.id, "Job created")
    changes.record(session, tenant_id=tenant, job_id=job.id, status=JobStatus.QUEUED.value)
    session.refresh(job)
    return job


def made_before(
    session: Session,
    tenant: str,
    body_sha256: str,
    *,
    idempotency_key: str | None,
    is_retry: bool,
) -> Job | None:
    """Return the job that this very request made before: by its key, or as the SDK's retry of it.

    Raises ``IdempotencyKeyReused`` when the key came with another body.
    """
    if idempotency_key is not None:
        former = session.get(IdempotencyKey, (tenant, idempotency_key))
        if former is None:
            return None
        if former.body_sha256 != body_sha256:
            raise IdempotencyKeyReused(
                "this Idempotency-Key came with another body before; use a new key for a new job"
            )
        return get(session, tenant, former.job_id)
    if not is_retry:
        return None
    return session.scalars(
        select(Job)
        .where(
            Job.tenant_id == tenant,
            Job.body_sha256 == body_sha256,
            Job.created_at > datetime.now(UTC) - RETRY_WINDOW,
        )
        .order_by(Job.seq.desc())
        .limit(1)
    ).one_or_none()


def get(session: Session, tenant: str, job_id: str) -> Job:
    """Return a job as the database has it now. Raises ``JobNotFound``."""
    job = session.scalars(
        select(Job)
        .where(Job.tenant_id == tenant, Job.id == job_id)
        .execution_options(populate_existing=True)
    ).one_or_none()
    if job is None:
        raise JobNotFound(f"there is no fine-tuning job {job_id!r}", param="fine_tuning_job_id")
    return job


def version_of(session: Session, tenant: str, job_id: str) -> int:
    """Return a job's version alone, which is cheap. Raises ``JobNotFound``."""
    version = session.scalar(select(Job.version).where(Job.tenant_id == tenant, Job.id == job_id))
    if version is None:
        raise JobNotFound(f"there is no fine-tuning job {job_id!r}", param="fine_tuning_job_id")
    return version


def page(
    session: Session,
    tenant: str,
    *,
    after: str | None,
    limit: int,
    metadata: Mapping[str, str] | None = None,
    status: JobStatus | None = None,
) -> Page[Job]:
    """Return the tenant's jobs, newest first, that have all of ``metadata``."""
    conditions: list[ColumnElement[bool]] = [Job.tenant_id == tenant]
    query = select(Job).where(*conditions).order_by(Job.seq.desc())
    if after is not None:
        query = query.where(
            Job.seq < position(session, Job.seq, *conditions, Job.id == after, after=after)
        )
    if status is not None:
        query = query.where(Job.status == status)
    for key, value in (metadata or {}).items():
        query = query.where(
            exists().where(
                JobMetadata.job_id == Job.id, JobMetadata.key == key, JobMetadata.value == value
            )
        )
    return page_of(session, query, limit=limit)


def cancel(session: Session, tenant: str, job_id: str) -> Job:
    """Cancel an open job at once; a job that is cancelled already is returned as it is.

    The epoch rises, so that nothing its actors still send is accepted. Raises ``JobNotFound`` and,
    for jobs that ended otherwise, ``InvalidJobState``.
    """
    # Locked, so that a claim at the same moment comes before or after, on Postgres too.
    session.execute(
        select(Job.seq).where(Job.tenant_id == tenant, Job.id == job_id).with_for_update()
    )
    job = get(session, tenant, job_id)
    if job.status is JobStatus.CANCELLED:
        return job
    if job.status.is_terminal:
        raise InvalidJobState(
            f"job {job_id} has already {job.status.value}; only queued and running jobs can be"
            " cancelled"
        )
    transitions.move_job(
        session,
        job_id,
        job.status,
        JobStatus.CANCELLED,
        message="Job cancelled",
        values={
            "epoch": Job.epoch + 1,
            "finished_at": datetime.now(UTC),
            "lease_until": None,
            "queue_position": None,
            "queue_reason": None,
        },
    )
    return get(session, tenant, job_id)


def spec_of(session: Session, job_id: str) -> JobSpec:
    """Return the resolved spec of a job."""
    return JobSpec.model_validate(session.scalars(select(Job.spec).where(Job.id == job_id)).one())


def stages_of(session: Session, job_id: str) -> Sequence[Stage]:
    """Return the stages of a job in the order of the pipeline."""
    return session.scalars(
        select(Stage)
        .where(Stage.job_id == job_id)
        .order_by(Stage.position)
        .execution_options(populate_existing=True)
    ).all()


def stages_of_many(session: Session, job_ids: Sequence[str]) -> dict[str, list[Stage]]:
    """Return job id -> its stages in order, for a list of jobs."""
    stages: dict[str, list[Stage]] = {job_id: [] for job_id in job_ids}
    for stage in session.scalars(
        select(Stage).where(Stage.job_id.in_(job_ids)).order_by(Stage.position)
    ):
        stages[stage.job_id].append(stage)
    return stages


def is_current(session: Session, job_id: str, epoch: int) -> bool:
    """Whether the job still runs under ``epoch``."""
    return (
        session.scalar(
            select(Job.seq).where(
                Job.id == job_id, Job.epoch == epoch, Job.status == JobStatus.RUNNING
            )
        )
        is not None
    )


def running_since(session: Session, job_id: str) -> datetime | None:
    """Return when the job first ran, from which ``run.max_runtime_s`` counts."""
    return session.scalars(select(Job.started_at).where(Job.id == job_id)).one()


def checkpoints_page(
    session: Session, job_id: str, *, after: str | None, limit: int
) -> Page[Checkpoint]:
    """Return the checkpoints of a job's policy, newest first."""
    conditions = (Checkpoint.job_id == job_id, Checkpoint.stage == StageName.TRAIN_POLICY)
    query = select(Checkpoint).where(*conditions).order_by(Checkpoint.seq.desc())
    if after is not None:
        at = position(session, Checkpoint.seq, *conditions, Checkpoint.id == after, after=after)
        query = query.where(Checkpoint.seq < at)
    return page_of(session, query, limit=limit)


def queued(session: Session, tenant: str) -> Sequence[Job]:
    """Return the tenant's queued jobs in the order in which they will run."""
    return session.scalars(
        select(Job)
        .where(Job.tenant_id == tenant, Job.status == JobStatus.QUEUED)
        .order_by(Job.priority.desc(), Job.seq)
    ).all()


def oldest_queued(session: Session) -> datetime | None:
    """Return when the queued job that has waited longest was created, over all tenants."""
    return session.scalar(select(func.min(Job.created_at)).where(Job.status == JobStatus.QUEUED))


def counts(session: Session, tenant: str | None = None) -> dict[JobStatus, int]:
    """Return how many jobs there are in each status, in one tenant or (None) in all."""
    query = select(Job.status, func.count()).group_by(Job.status)
    if tenant is not None:
        query = query.where(Job.tenant_id == tenant)
    counted = dict.fromkeys(JobStatus, 0)
    for status, number in session.execute(query):
        counted[status] = number
    return counted


def _place_of_newcomer(session: Session, priority: int) -> int:
    ahead = session.scalar(
        select(func.count()).where(Job.status == JobStatus.QUEUED, Job.priority >= priority)
    )
    return (ahead or 0) + 1
