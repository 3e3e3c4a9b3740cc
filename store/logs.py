"""Log lines of a job."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.models import LogLine


def tail(session: Session, job_id: str, *, lines: int) -> Sequence[LogLine]:
    """Return the last ``lines`` lines of a job, oldest first."""
    newest = session.scalars(
        select(LogLine).where(LogLine.job_id == job_id).order_by(LogLine.seq.desc()).limit(lines)
    ).all()
    return newest[::-1]


def after(session: Session, job_id: str, seq: int, *, limit: int) -> Sequence[LogLine]:
    """Return the lines that follow number ``seq``, oldest first."""
    return session.scalars(
        select(LogLine)
        .where(LogLine.job_id == job_id, LogLine.seq > seq)
        .order_by(LogLine.seq)
        .limit(limit)
    ).all()
