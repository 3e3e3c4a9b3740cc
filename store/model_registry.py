"""Models that jobs made: named by the tenant, resolved to folders of weights."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import delete as sql_delete, select
from sqlalchemy.orm import Session

from store.errors import ModelInUse, ModelNotFound
from store.models import Job, Model
from vrpo.contract.pipeline import model_roles
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import JobStatus


def register(
    session: Session,
    tenant: str,
    name: str,
    job_id: str,
    path: Path,
    base_model: str,
    adapter: bool,
    step: int | None = None,
) -> Model:
    """Name the weights at ``path``; a name that is there already keeps its first meaning."""
    found = resolve(session, tenant, name)
    if found is not None:
        return found
    model = Model(
        tenant_id=tenant,
        name=name,
        job_id=job_id,
        path=str(path),
        base_model=base_model,
        adapter=adapter,
        step=step,
        created_at=datetime.now(UTC),
    )
    session.add(model)
    session.flush()
    return model


def resolve(session: Session, tenant: str, name: str) -> Model | None:
    """Return the tenant's model of that name, or None."""
    return session.scalars(
        select(Model).where(Model.tenant_id == tenant, Model.name == name)
    ).one_or_none()


def of_tenant(session: Session, tenant: str) -> Sequence[Model]:
    """Return all models that the tenant's jobs made, newest first."""
    return session.scalars(
        select(Model).where(Model.tenant_id == tenant).order_by(Model.seq.desc())
    ).all()


def delete(session: Session, tenant: str, name: str) -> None:
    """Forget a model's name. Raises ``ModelNotFound`` and, for open jobs, ``ModelInUse``."""
    model = resolve(session, tenant, name)
    if model is None:
        raise ModelNotFound(f"there is no fine-tuned model {name!r}", param="model")
    open_jobs = session.execute(
        select(Job.id, Job.spec).where(
            Job.tenant_id == tenant, Job.status.in_([JobStatus.QUEUED, JobStatus.RUNNING])
        )
    )
    for job_id, spec in open_jobs:
        if name in model_roles(JobSpec.model_validate(spec)).values():
            raise ModelInUse(f"model {name!r} is in use by job {job_id}; cancel that job first")
    session.execute(sql_delete(Model).where(Model.seq == model.seq, Model.tenant_id == tenant))
