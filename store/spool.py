"""What a stage reported, stored in one transaction: delivered at least once, counted once."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store import events, transitions
from store.clean import clean_text, finite
from store.ids import new_id
from store.inserts import insert_new
from store.models import Attempt, Checkpoint, LogLine, Metric, Stage
from store.progress import update_progress
from vrpo.contract.status import AttemptStatus, StageName
from vrpo.contract.task import Checkpoint as CheckpointRecord, Log, Metrics, Progress, SpoolRecord

MAX_METRIC_KEY = 128


def apply_records(
    session: Session,
    *,
    job_id: str,
    epoch: int,
    stage: StageName,
    records: Sequence[SpoolRecord],
    now: datetime,
    lease: timedelta,
) -> bool:
    """Store the records of a stage's open attempt, renew the lease, raise the job's version.

    Returns False, having stored nothing, when the job no longer runs under ``epoch``. Records up
    to the attempt's ``last_seq`` were stored before and are passed over. ``succeeded``, ``failed``
    and ``stopped`` records are the caller's to act on.
    """
    if not transitions.touch_running_job(session, job_id, epoch, lease_until=now + lease):
        return False
    attempt = session.scalars(
        select(Attempt)
        .where(
            Attempt.job_id == job_id,
            Attempt.stage == stage,
            Attempt.epoch == epoch,
            Attempt.status == AttemptStatus.RUNNING,
        )
        .order_by(Attempt.number.desc())
        .limit(1)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    if attempt is None:
        return False
    fresh = [record for record in records if record.seq > attempt.last_seq]
    if not fresh:
        return True
    _store_metrics(session, job_id, stage, fresh)
    _store_logs(session, attempt, fresh)
    _store_checkpoints(session, job_id, stage, fresh)
    _store_progress(session, job_id, stage, fresh)
    session.execute(update(Attempt).where(Attempt.id == attempt.id).values(last_seq=fresh[-1].seq))
    return True


def _time(record: SpoolRecord) -> datetime:
    return datetime.fromtimestamp(record.at, UTC)


def _store_metrics(
    session: Session, job_id: str, stage: StageName, records: Sequence[SpoolRecord]
) -> None:
    known_bad = set(
        session.scalars(
            select(Metric.key)
            .where(Metric.job_id == job_id, Metric.stage == stage, Metric.value.is_(None))
            .distinct()
        )
    )
    rows = []
    for record in records:
        if not isinstance(record.body, Metrics):
            continue
        step = record.body.step
        values = {
            clean_text(key)[:MAX_METRIC_KEY]: finite(value)
            for key, value in record.body.values.items()
        }
        for key, value in values.items():
            rows.append(
                {"job_id": job_id, "stage": stage, "key": key, "step": step, "value": value}
            )
            if value is None and key not in known_bad:
                known_bad.add(key)
                events.add(
                    session,
                    job_id,
                    f"Stage {stage.value}: {key} was not a finite number at step {step}",
                    level="warn",
                    at=_time(record),
                )
        if stage is StageName.TRAIN_POLICY:
            events.add(
                session,
                job_id,
                f"Step {step}" + _loss_words(values),
                data={"step": step, "train_loss": values.get("loss"), **values},
                at=_time(record),
                metrics=True,
            )
    insert_new(session, Metric, rows)


def _loss_words(values: dict[str, float | None]) -> str:
    loss = values.get("loss")
    return "" if loss is None else f": training loss {loss:.4f}"


def _store_logs(session: Session, attempt: Attempt, records: Sequence[SpoolRecord]) -> None:
    lines = [(record, record.body) for record in records if isinstance(record.body, Log)]
    insert_new(
        session,
        LogLine,
        (
            {
                "job_id": attempt.job_id,
                "attempt_id": attempt.id,
                "record_seq": record.seq,
                "stage": attempt.stage,
                "at": _time(record),
                "level": line.level,
                "message": clean_text(line.message),
            }
            for record, line in lines
        ),
    )
    for record, line in lines:
        if line.event:
            events.add(
                session,
                attempt.job_id,
                clean_text(line.message),
                level=line.level,
                at=_time(record),
                data={"stage": attempt.stage.value},
            )


def _store_checkpoints(
    session: Session, job_id: str, stage: StageName, records: Sequence[SpoolRecord]
) -> None:
    insert_new(
        session,
        Checkpoint,
        (
            {
                "id": new_id("ftckpt_"),
                "job_id": job_id,
                "stage": stage,
                "step": record.body.step,
                "metrics": {key: finite(value) for key, value in record.body.metrics.items()},
                "created_at": _time(record),
            }
            for record in records
            if isinstance(record.body, CheckpointRecord)
        ),
    )


def _store_progress(
    session: Session, job_id: str, stage: StageName, records: Sequence[SpoolRecord]
) -> None:
    latest = [record.body for record in records if isinstance(record.body, Progress)][-1:]
    for body in latest:
        session.execute(
            update(Stage)
            .where(Stage.job_id == job_id, Stage.name == stage)
            .values(done=body.done, total=body.total, unit=body.unit)
            .execution_options(synchronize_session=False)
        )
        update_progress(session, job_id)
