"""Results of stages by key: what has been computed is not computed again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.inserts import insert_new
from store.models import Artifact, StageResult
from vrpo.contract.status import StageName


@dataclass(frozen=True)
class CachedStage:
    """The published output of a stage."""

    path: Path
    summary: dict[str, Any]


def lookup(session: Session, tenant_id: str, key: str) -> CachedStage | None:
    """Return the tenant's result under ``key``, if it has been computed."""
    found = session.execute(
        select(StageResult.path, StageResult.summary).where(
            StageResult.tenant_id == tenant_id, StageResult.key == key
        )
    ).one_or_none()
    return None if found is None else CachedStage(Path(found.path), found.summary)


def record(
    session: Session,
    tenant_id: str,
    key: str,
    stage: StageName,
    path: Path,
    files: Iterable[tuple[str, int, str]],
    summary: Mapping[str, Any],
    job_id: str,
) -> None:
    """Store where a stage's output lies, with its ``files``: (path within it, bytes, SHA-256).

    Of two jobs that computed the same key, the first one's row stays. Every job whose stage has
    this key shows the files as its artifacts.
    """
    insert_new(
        session,
        StageResult,
        [
            {
                "tenant_id": tenant_id,
                "key": key,
                "stage": stage,
                "path": str(path),
                "summary": dict(summary),
                "job_id": job_id,
                "created_at": datetime.now(UTC),
            }
        ],
    )
    insert_new(
        session,
        Artifact,
        (
            {
                "tenant_id": tenant_id,
                "key": key,
                "job_id": None,
                "stage": stage,
                "name": f"{stage.value}/{name}",
                "path": str(path / name),
                "size": size,
                "sha256": sha256,
            }
            for name, size, sha256 in files
        ),
    )
