"""The moves of jobs and stages. No other file changes a status.

Every UPDATE names the state (and, for the controller, the epoch) that it expects, so of two
writers exactly one succeeds; the move's event and change row are in the same transaction.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ScalarSelect, case, func, select, update
from sqlalchemy.orm import Session

from store import changes, events
from store.errors import StaleTransition
from store.models import Job, Stage
from store.progress import update_progress
from vrpo.contract.status import JOB_MOVES, STAGE_MOVES, JobStatus, StageName, StageStatus


def move_job(
    session: Session,
    job_id: str,
    old: JobStatus,
    new: JobStatus,
    *,
    message: str,
    epoch: int | None = None,
    level: events.Level = "info",
    values: Mapping[str, Any] | None = None,
) -> None:
    """Move a job from ``old`` to ``new``, and with it ``values``, in the caller's transaction.

    Raises ``StaleTransition`` when the job is not in ``old`` or, where given, not at ``epoch``.
    """
    assert new in JOB_MOVES[old], f"{old} -> {new} is not in the table of moves"
    query = update(Job).where(Job.id == job_id, Job.status == old)
    if epoch is not None:
        query = query.where(Job.epoch == epoch)
    tenant_id = session.scalar(
        query.values({"status": new, "version": Job.version + 1, **(values or {})})
        .returning(Job.tenant_id)
        .execution_options(synchronize_session=False)
    )
    if tenant_id is None:
        raise StaleTransition(f"job {job_id} is no longer {old.value} at epoch {epoch}")
    events.add(session, job_id, message, level=level)
    if new.is_terminal:
        _end_open_stages(session, job_id)
    changes.record(session, tenant_id=tenant_id, job_id=job_id, status=new.value)


def claim_picked_job(
    session: Session, pick: ScalarSelect[str], *, owner: str, now: datetime, lease: timedelta
) -> str | None:
    """Move the picked job to running under a new epoch; returns its id, None if there is none.

    One statement picks and moves, so two callers never get the same job.
    """
    claimed = session.execute(
        update(Job)
        .where(Job.id == pick)
        .values(
            status=JobStatus.RUNNING,
            owner=owner,
            epoch=Job.epoch + 1,
            version=Job.version + 1,
            lease_until=now + lease,
            restarts=Job.restarts + case((Job.status == JobStatus.RUNNING, 1), else_=0),
            started_at=func.coalesce(Job.started_at, now),
            queue_position=None,
            queue_reason=None,
        )
        .returning(Job.id, Job.tenant_id, Job.epoch)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if claimed is None:
        return None
    again = " again" if claimed.epoch > 1 else ""
    events.add(session, claimed.id, f"Job started{again}")
    changes.record(
        session, tenant_id=claimed.tenant_id, job_id=claimed.id, status=JobStatus.RUNNING.value
    )
    return str(claimed.id)


def finish_job(
    session: Session,
    job_id: str,
    epoch: int,
    *,
    status: JobStatus,
    error: Mapping[str, Any] | None = None,
    failure: Mapping[str, Any] | None = None,
    fine_tuned_model: str | None = None,
    trained_tokens: int | None = None,
    usage: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> None:
    """End a running job; stages still open become cancelled. Raises ``StaleTransition``.

    ``error`` is ``{code, message, param}`` and goes with ``failed``.
    """
    assert (error is not None) == (status is JobStatus.FAILED), "failed jobs have an error"
    values: dict[str, Any] = {
        "finished_at": datetime.now(UTC),
        "lease_until": None,
        "error": None if error is None else dict(error),
        "failure": None if failure is None else dict(failure),
        "fine_tuned_model": fine_tuned_model,
        "trained_tokens": trained_tokens,
        "usage": None if usage is None else dict(usage),
        "manifest": None if manifest is None else dict(manifest),
    }
    if status is JobStatus.SUCCEEDED:
        values["progress"] = 1.0
    message = f"Job {status.value}"
    if error is not None:
        message = f"Job failed: {error['message']}"
    elif fine_tuned_model is not None:
        message = f"Job succeeded; new model: {fine_tuned_model}"
    move_job(
        session,
        job_id,
        JobStatus.RUNNING,
        status,
        epoch=epoch,
        message=message,
        level="error" if error is not None else "info",
        values=values,
    )


def move_stage(
    session: Session,
    job_id: str,
    epoch: int,
    stage: StageName,
    old: StageStatus,
    new: StageStatus,
    *,
    cached: bool = False,
    key: str | None = None,
    summary: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> None:
    """Move one stage of a job that runs under ``epoch``, in the caller's transaction.

    Raises ``StaleTransition`` when the job has moved on or the stage is not in ``old``.
    """
    assert new in STAGE_MOVES[old], f"{old} -> {new} is not in the table of moves"
    if not touch_running_job(session, job_id, epoch):
        raise StaleTransition(f"job {job_id} no longer runs at epoch {epoch}")
    now = datetime.now(UTC)
    values: dict[str, Any] = {"status": new}
    if new is StageStatus.RUNNING:
        values |= {"started_at": now, "finished_at": None}
    elif new is StageStatus.PENDING:
        values |= {"started_at": None, "done": None, "total": None, "unit": None}
    else:
        values["finished_at"] = now
        if old is StageStatus.PENDING:
            values["started_at"] = now
    if cached:
        values["cached"] = True
    if key is not None:
        values["key"] = key
    if summary is not None:
        values["summary"] = dict(summary)
    moved = session.scalar(
        update(Stage)
        .where(Stage.job_id == job_id, Stage.name == stage, Stage.status == old)
        .values(values)
        .returning(Stage.name)
        .execution_options(synchronize_session=False)
    )
    if moved is None:
        raise StaleTransition(f"stage {stage.value} of job {job_id} is no longer {old.value}")
    update_progress(session, job_id)
    events.add(
        session,
        job_id,
        _stage_message(stage, new, cached=cached, reason=reason),
        level="error" if new is StageStatus.FAILED else "info",
        data={"stage": stage.value, "status": new.value},
    )
    tenant_id = session.scalars(select(Job.tenant_id).where(Job.id == job_id)).one()
    changes.record(session, tenant_id=tenant_id, job_id=job_id, status=new.value, stage=stage)


def touch_running_job(
    session: Session, job_id: str, epoch: int, *, lease_until: datetime | None = None
) -> bool:
    """Raise the version, and renew the lease where given, of a job that runs under ``epoch``.

    This is the fence: False means that the caller is no longer the job's owner and must write
    nothing. The row stays locked until the transaction ends.
    """
    values: dict[str, Any] = {"version": Job.version + 1}
    if lease_until is not None:
        values["lease_until"] = lease_until
    touched = session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.epoch == epoch, Job.status == JobStatus.RUNNING)
        .values(values)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    return touched is not None


def reset_running_stages(session: Session, job_id: str) -> None:
    """Send the running stages of a job that changed hands back to pending."""
    session.execute(
        update(Stage)
        .where(Stage.job_id == job_id, Stage.status == StageStatus.RUNNING)
        .values(status=StageStatus.PENDING, started_at=None, done=None, total=None, unit=None)
        .execution_options(synchronize_session=False)
    )


def _end_open_stages(session: Session, job_id: str) -> None:
    session.execute(
        update(Stage)
        .where(
            Stage.job_id == job_id,
            Stage.status.in_([StageStatus.PENDING, StageStatus.RUNNING]),
        )
        .values(status=StageStatus.CANCELLED, finished_at=datetime.now(UTC))
        .execution_options(synchronize_session=False)
    )


def _stage_message(stage: StageName, new: StageStatus, *, cached: bool, reason: str | None) -> str:
    words = {
        StageStatus.PENDING: "will be tried again",
        StageStatus.RUNNING: "started",
        StageStatus.SUCCEEDED: "was computed before; its result is used" if cached else "succeeded",
        StageStatus.FAILED: "failed",
        StageStatus.CANCELLED: "was cancelled",
    }[new]
    tail = "" if reason is None else f": {reason}"
    return f"Stage {stage.value} {words}{tail}"
