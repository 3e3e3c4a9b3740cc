"""What a job leaves behind: metric series, log lines, files."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from server import present
from server.deps import ReadSessionDep, Viewer
from server.routes.jobs import MAX_SEQ
from store import artifacts, jobs, logs, metrics
from vrpo.contract.job_views import ArtifactView, LogLineView, MetricsView
from vrpo.contract.status import StageName
from vrpo.contract.views import ListView

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["fine-tuning"])


@router.get("/metrics")
def read_metrics(
    job_id: str,
    principal: Viewer,
    session: ReadSessionDep,
    keys: str | None = None,
    stage: StageName | None = None,
    since_step: Annotated[int | None, Query(ge=-1, le=MAX_SEQ)] = None,
    max_points: Annotated[int, Query(ge=1, le=10_000)] = 400,
) -> MetricsView:
    """Read a job's metrics as series, cut into buckets of mean, min and max.

    ``keys`` is a list with commas; ``since_step`` gives only what is newer.
    """
    jobs.version_of(session, principal.tenant_id, job_id)
    found = metrics.series(
        session,
        job_id,
        stage=stage,
        keys=None if keys is None else keys.split(","),
        since_step=since_step,
        max_points=max_points,
    )
    return MetricsView(job_id=job_id, series=[present.series_view(series) for series in found])


@router.get("/logs")
def read_logs(
    job_id: str,
    principal: Viewer,
    session: ReadSessionDep,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    tail: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> ListView[LogLineView]:
    """Read a job's log lines after number ``after``, or the last ``tail`` of them."""
    jobs.version_of(session, principal.tenant_id, job_id)
    if tail is not None:
        lines = logs.tail(session, job_id, lines=tail)
    else:
        lines = logs.after(session, job_id, after, limit=limit)
    shown = [present.log_line_view(line) for line in lines]
    return ListView(data=shown, has_more=tail is None and len(shown) == limit)


@router.get("/artifacts")
def list_artifacts(
    job_id: str, principal: Viewer, session: ReadSessionDep
) -> ListView[ArtifactView]:
    """List the files that a job's stages left."""
    jobs.version_of(session, principal.tenant_id, job_id)
    found = artifacts.of_job(session, principal.tenant_id, job_id)
    return ListView(data=[present.artifact_view(artifact) for artifact in found])


@router.get(
    "/artifacts/{path:path}",
    response_class=FileResponse,
    responses={
        206: {"description": "The asked range"},
        304: {"description": "Nothing changed (If-None-Match)"},
    },
)
def read_artifact(
    job_id: str, path: str, request: Request, principal: Viewer, session: ReadSessionDep
) -> Response:
    """Download a file of a job; ranges work, and the ETag is its SHA-256."""
    jobs.version_of(session, principal.tenant_id, job_id)
    artifact = artifacts.get(session, principal.tenant_id, job_id, path)
    etag = f'"{artifact.sha256}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    return FileResponse(
        Path(artifact.path),
        media_type="application/octet-stream",
        filename=artifact.name.rsplit("/", 1)[-1],
        headers={"ETag": etag},
    )
