"""Artifacts: the files that a job's stages left, and single files of a job such as a trace."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from store.errors import ArtifactNotFound
from store.inserts import insert_new
from store.models import Artifact, Stage
from vrpo.contract.status import StageName, StageStatus


def add(
    session: Session,
    *,
    tenant_id: str,
    job_id: str,
    stage: StageName,
    name: str,
    path: Path,
    size: int,
    sha256: str,
) -> None:
    """Record one file of a job, outside any stage's output; its name is ``<stage>/<name>``."""
    insert_new(
        session,
        Artifact,
        [
            {
                "tenant_id": tenant_id,
                "key": None,
                "job_id": job_id,
                "stage": stage,
                "name": f"{stage.value}/{name}",
                "path": str(path),
                "size": size,
                "sha256": sha256,
            }
        ],
    )


def of_job(session: Session, tenant_id: str, job_id: str) -> Sequence[Artifact]:
    """Return all artifacts of a job, by name."""
    return session.scalars(
        select(Artifact).where(_belongs_to(tenant_id, job_id)).order_by(Artifact.name)
    ).all()


def get(session: Session, tenant_id: str, job_id: str, name: str) -> Artifact:
    """Return the artifact of that exact name. Raises ``ArtifactNotFound``."""
    found = session.scalars(
        select(Artifact).where(_belongs_to(tenant_id, job_id), Artifact.name == name).limit(1)
    ).one_or_none()
    if found is None:
        raise ArtifactNotFound(f"job {job_id} has no artifact {name!r}")
    return found


def _belongs_to(tenant_id: str, job_id: str) -> ColumnElement[bool]:
    keys = select(Stage.key).where(
        Stage.job_id == job_id, Stage.status == StageStatus.SUCCEEDED, Stage.key.is_not(None)
    )
    return and_(
        Artifact.tenant_id == tenant_id,
        or_(Artifact.job_id == job_id, Artifact.key.in_(keys)),
    )
