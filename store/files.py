"""Uploaded files: rows here, bytes in the artifacts folder under the file's id."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import delete as sql_delete, or_, select
from sqlalchemy.orm import Session

from store.errors import FileInUse, FileNotFound
from store.models import File, Job, Tenant
from store.paging import Page, page_of, position
from vrpo.contract.status import JobStatus


def add(
    session: Session,
    tenant: str,
    *,
    file_id: str,
    filename: str,
    purpose: str,
    size: int,
    sha256: str,
    path: Path,
    report: dict[str, Any],
) -> File:
    """Record a file whose bytes are durable at ``path`` and passed their checks."""
    file = File(
        id=file_id,
        tenant_id=tenant,
        filename=filename,
        purpose=purpose,
        size=size,
        sha256=sha256,
        path=str(path),
        report=report,
        created_at=datetime.now(UTC),
    )
    session.add(file)
    session.flush()
    return file


def get(session: Session, tenant: str, file_id: str) -> File:
    """Return a file's row. Raises ``FileNotFound``."""
    file = session.scalars(
        select(File).where(File.tenant_id == tenant, File.id == file_id)
    ).one_or_none()
    if file is None:
        raise FileNotFound(f"there is no file {file_id!r}", param="file_id")
    return file


def page(
    session: Session,
    tenant: str,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    purpose: str | None,
) -> Page[File]:
    """Return the tenant's files in the order of their upload, or newest first."""
    query = select(File).where(File.tenant_id == tenant)
    query = query.order_by(File.seq.desc() if order == "desc" else File.seq)
    if purpose is not None:
        query = query.where(File.purpose == purpose)
    if after is not None:
        at = position(session, File.seq, File.tenant_id == tenant, File.id == after, after=after)
        query = query.where(File.seq < at if order == "desc" else File.seq > at)
    return page_of(session, query, limit=limit)


def known_ids(session: Session) -> set[str]:
    """Return the ids of all files of all tenants, to tell which bytes belong to nothing."""
    return set(session.scalars(select(File.id)))


def delete(session: Session, tenant: str, file_id: str) -> Path:
    """Forget a file; returns the path whose bytes go once this has committed.

    Raises ``FileNotFound`` and, while an open job needs it, ``FileInUse``.
    """
    # Creating a job takes the same lock, so a file cannot go between its check and its use.
    session.execute(select(Tenant.id).where(Tenant.id == tenant).with_for_update())
    file = get(session, tenant, file_id)
    user = session.scalar(
        select(Job.id)
        .where(
            Job.tenant_id == tenant,
            Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING]),
            or_(Job.training_file == file_id, Job.validation_file == file_id),
        )
        .limit(1)
    )
    if user is not None:
        raise FileInUse(f"file {file_id} is in use by job {user}; cancel that job first")
    session.execute(sql_delete(File).where(File.tenant_id == tenant, File.id == file_id))
    return Path(file.path)
