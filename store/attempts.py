"""Attempts: one try at a stage in one actor, and how it ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from store import transitions
from store.clean import clean_text
from store.errors import StaleTransition
from store.models import Attempt, Job, Stage
from vrpo.contract.status import AttemptStatus, JobStatus, StageName


def start_attempt(
    session: Session, job_id: str, epoch: int, stage: StageName, actor_name: str, workdir: str
) -> Attempt:
    """Record that an actor is about to run the stage; the first attempt has ``number`` 1.

    Raises ``StaleTransition`` when the job no longer runs under ``epoch``.
    """
    if not transitions.touch_running_job(session, job_id, epoch):
        raise StaleTransition(f"job {job_id} no longer runs at epoch {epoch}")
    latest = session.scalar(
        select(func.max(Attempt.number)).where(Attempt.job_id == job_id, Attempt.stage == stage)
    )
    attempt = Attempt(
        job_id=job_id,
        stage=stage,
        number=(latest or 0) + 1,
        epoch=epoch,
        actor_name=actor_name,
        workdir=workdir,
        status=AttemptStatus.RUNNING,
        last_seq=0,
        started_at=datetime.now(UTC),
    )
    session.add(attempt)
    session.flush()
    session.execute(
        update(Stage)
        .where(Stage.job_id == job_id, Stage.name == stage)
        .values(attempt=attempt.number)
        .execution_options(synchronize_session=False)
    )
    return attempt


@dataclass(frozen=True)
class OpenAttempt:
    """An attempt whose actor may live, and whether its job still wants it."""

    attempt: Attempt
    current: bool
    """False once the job ended or has a newer epoch: kill the actor, then ``finish``."""


def open_attempts(session: Session) -> list[OpenAttempt]:
    """Return all attempts that have not been finished, oldest first."""
    rows = session.execute(
        select(Attempt, Job.epoch, Job.status)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.status == AttemptStatus.RUNNING)
        .order_by(Attempt.id)
    ).all()
    return [
        OpenAttempt(attempt, current=status is JobStatus.RUNNING and attempt.epoch == epoch)
        for attempt, epoch, status in rows
    ]


def of_job(session: Session, job_id: str) -> Sequence[Attempt]:
    """Return all attempts of a job, oldest first."""
    return session.scalars(
        select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.id)
    ).all()


def finish(
    session: Session, attempt_id: int, status: AttemptStatus, *, reason: str | None = None
) -> bool:
    """Close an open attempt; False if it was closed before. The stage's own move is separate."""
    closed = session.scalar(
        update(Attempt)
        .where(Attempt.id == attempt_id, Attempt.status == AttemptStatus.RUNNING)
        .values(
            status=status,
            reason=None if reason is None else clean_text(reason),
            finished_at=datetime.now(UTC),
        )
        .returning(Attempt.id)
        .execution_options(synchronize_session=False)
    )
    return closed is not None


def lose_all(session: Session, job_id: str, *, reason: str, now: datetime) -> list[str]:
    """Close a job's open attempts as lost; returns the names of their actors."""
    return list(
        session.scalars(
            update(Attempt)
            .where(Attempt.job_id == job_id, Attempt.status == AttemptStatus.RUNNING)
            .values(status=AttemptStatus.LOST, reason=reason, finished_at=now)
            .returning(Attempt.actor_name)
            .execution_options(synchronize_session=False)
        )
    )
