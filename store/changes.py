"""The change feed: one numbered row per move, in the transaction that makes the move."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.models import Change, Tenant
from vrpo.contract.status import StageName


def record(
    session: Session, *, tenant_id: str, job_id: str, status: str, stage: StageName | None = None
) -> None:
    """Append a row.

    The number is drawn from the tenant's row, which stays locked until the commit, so a reader
    never sees a number before a smaller one.
    """
    seq = session.scalar(
        update(Tenant)
        .where(Tenant.id == tenant_id)
        .values(change_seq=Tenant.change_seq + 1)
        .returning(Tenant.change_seq)
    )
    assert seq is not None
    session.add(
        Change(
            tenant_id=tenant_id,
            seq=seq,
            type="job" if stage is None else "stage",
            job_id=job_id,
            stage=stage,
            status=status,
            at=datetime.now(UTC),
        )
    )
    session.flush()


def after(session: Session, tenant_id: str, seq: int, *, limit: int) -> Sequence[Change]:
    """Return the tenant's changes that follow ``seq``, oldest first."""
    return session.scalars(
        select(Change)
        .where(Change.tenant_id == tenant_id, Change.seq > seq)
        .order_by(Change.seq)
        .limit(limit)
    ).all()


def last_seq(session: Session, tenant_id: str) -> int:
    """Return the number of the tenant's newest change; 0 before the first."""
    return session.scalar(select(Tenant.change_seq).where(Tenant.id == tenant_id)) or 0
