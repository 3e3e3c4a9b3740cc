"""The queue: which job runs next, for how long its owner may keep it, and who waits where."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, or_, select, update
from sqlalchemy.orm import Session

from store import attempts, transitions
from store.models import Job
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import JobStatus


@dataclass(frozen=True)
class Claim:
    """A job that its owner may run until the lease ends."""

    job_id: str
    epoch: int
    """Named in every later write; once the job has a newer one, those change nothing."""
    tenant_id: str
    spec: JobSpec
    restarts: int
    """How often the job was taken up again before."""
    lost_actors: tuple[str, ...] = ()
    """Actors of former owners that may still live; nothing they send is accepted."""


def claim_job(session: Session, *, owner: str, now: datetime, lease: timedelta) -> Claim | None:
    """Take the next job: queued, or running with a lease that ran out; None if there is none.

    The highest priority first, then the oldest. Stages that a former owner left running go back
    to pending, and its attempts are lost.
    """
    pick = (
        select(Job.id)
        .where(
            or_(
                Job.status == JobStatus.QUEUED,
                and_(Job.status == JobStatus.RUNNING, Job.lease_until < now),
            )
        )
        .order_by(Job.priority.desc(), Job.seq)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    job_id = transitions.claim_picked_job(session, pick, owner=owner, now=now, lease=lease)
    if job_id is None:
        return None
    lost = attempts.lose_all(session, job_id, reason="the job has a new owner", now=now)
    transitions.reset_running_stages(session, job_id)
    return _claim_of(session, job_id, lost_actors=tuple(lost))


def held_claims(session: Session) -> list[Claim]:
    """Return every running job as it is claimed now, for a controller that has just started.

    Whoever holds them goes on by ``renew_lease`` under the same epoch.
    """
    job_ids = session.scalars(
        select(Job.id).where(Job.status == JobStatus.RUNNING).order_by(Job.seq)
    ).all()
    return [_claim_of(session, job_id) for job_id in job_ids]


def renew_lease(session: Session, job_id: str, epoch: int, now: datetime, lease: timedelta) -> bool:
    """Keep a job for ``lease`` from ``now``; False if it is no longer the caller's."""
    renewed = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.epoch == epoch, Job.status == JobStatus.RUNNING)
        .values(lease_until=now + lease)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return renewed is not None


def release_job(session: Session, job_id: str, epoch: int, reason: str) -> None:
    """Put a running job back into the queue, because what ran it was lost.

    Raises ``StaleTransition`` when the job no longer runs under ``epoch``.
    """
    transitions.move_job(
        session,
        job_id,
        JobStatus.RUNNING,
        JobStatus.QUEUED,
        epoch=epoch,
        message=f"Job went back to the queue: {reason}",
        level="warn",
        values={"owner": None, "lease_until": None, "restarts": Job.restarts + 1},
    )
    transitions.reset_running_stages(session, job_id)


def update_queue_positions(
    session: Session, *, reason: str = "waiting for a running job to end"
) -> None:
    """Store the place in the queue of every queued job; a job that keeps its place is untouched."""
    waiting = session.execute(
        select(Job.id, Job.queue_position, Job.queue_reason)
        .where(Job.status == JobStatus.QUEUED)
        .order_by(Job.priority.desc(), Job.seq)
    ).all()
    for place, job in enumerate(waiting, start=1):
        if (job.queue_position, job.queue_reason) != (place, reason):
            session.execute(
                update(Job)
                .where(Job.id == job.id, Job.status == JobStatus.QUEUED)
                .values(queue_position=place, queue_reason=reason, version=Job.version + 1)
                .execution_options(synchronize_session=False)
            )


def _claim_of(session: Session, job_id: str, *, lost_actors: tuple[str, ...] = ()) -> Claim:
    job = session.execute(
        select(Job.epoch, Job.tenant_id, Job.spec, Job.restarts).where(Job.id == job_id)
    ).one()
    return Claim(
        job_id=job_id,
        epoch=job.epoch,
        tenant_id=job.tenant_id,
        spec=JobSpec.model_validate(job.spec),
        restarts=job.restarts,
        lost_actors=lost_actors,
    )
