"""Events of a job: numbered per job, read newest first."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.clean import clean_text
from store.ids import new_id
from store.models import Event, Job
from store.paging import Page, page_of, position

Level = Literal["info", "warn", "error"]


def add(
    session: Session,
    job_id: str,
    message: str,
    *,
    level: Level = "info",
    data: dict[str, Any] | None = None,
    at: datetime | None = None,
    metrics: bool = False,
) -> None:
    """Append an event, in the caller's transaction; it raises the job's version."""
    seq = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(event_seq=Job.event_seq + 1, version=Job.version + 1)
        .returning(Job.event_seq)
        .execution_options(synchronize_session=False)
    )
    assert seq is not None
    session.add(
        Event(
            job_id=job_id,
            seq=seq,
            id=new_id("ftevent-"),
            created_at=at or datetime.now(UTC),
            level=level,
            message=clean_text(message),
            type="metrics" if metrics else "message",
            data=data,
        )
    )
    session.flush()


def page(session: Session, job_id: str, *, after: str | None, limit: int) -> Page[Event]:
    """Return events of a job the caller may see, newest first."""
    query = select(Event).where(Event.job_id == job_id).order_by(Event.seq.desc())
    if after is not None:
        query = query.where(
            Event.seq
            < position(session, Event.seq, Event.job_id == job_id, Event.id == after, after=after)
        )
    return page_of(session, query, limit=limit)


def since(session: Session, job_id: str, seq: int) -> Sequence[Event]:
    """Return the events that follow number ``seq``, oldest first."""
    return session.scalars(
        select(Event).where(Event.job_id == job_id, Event.seq > seq).order_by(Event.seq)
    ).all()
