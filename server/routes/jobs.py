"""``/v1/fine_tuning/jobs``: create, list, read, cancel, and OpenAI's sub-resources."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from server import present
from server.checks import check_request
from server.deps import (
    BodyDep,
    CatalogueDep,
    ReadSessionDep,
    SessionDep,
    SessionsDep,
    Submitter,
    Viewer,
)
from store import events, jobs
from store.errors import Invalid
from vrpo.contract.job_views import CheckpointView, EventView, JobView
from vrpo.contract.status import JobStatus
from vrpo.contract.validation import RequestRefused, parse_job
from vrpo.contract.views import ListView

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

JOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CreateJob"}}},
    }
}
Limit = Annotated[int, Query(ge=1, le=100)]
MAX_SEQ = 2**53


@router.post("", openapi_extra=JOB_BODY)
def create_job(
    body: BodyDep,
    principal: Submitter,
    session: SessionDep,
    catalogue: CatalogueDep,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    x_stainless_retry_count: Annotated[str | None, Header()] = None,
) -> JobView:
    """Create a job. Once this has answered, the job survives any restart.

    A repeated ``Idempotency-Key``, or the SDK's own retry of an equal body, gets the same job.
    """
    tenant = principal.tenant_id
    is_retry = (x_stainless_retry_count or "0") != "0"
    job = jobs.made_before(
        session, tenant, body.sha256, idempotency_key=idempotency_key, is_retry=is_retry
    )
    if job is None:
        request = parse_job(body.raw)
        faults = check_request(session, tenant, request, catalogue)
        if faults:
            raise RequestRefused(faults)
        job = jobs.create(
            session,
            tenant,
            request,
            body_sha256=body.sha256,
            idempotency_key=idempotency_key,
            is_retry=is_retry,
        )
    return present.job_view(job, jobs.stages_of(session, job.id))


@router.get("")
def list_jobs(
    request: Request,
    principal: Viewer,
    session: ReadSessionDep,
    after: str | None = None,
    limit: Limit = 20,
    status: JobStatus | None = None,
) -> ListView[JobView]:
    """List the jobs, newest first; ``metadata[key]=value`` and ``status`` filter."""
    page = jobs.page(
        session,
        principal.tenant_id,
        after=after,
        limit=limit,
        metadata=_metadata_filter(request),
        status=status,
    )
    stages = jobs.stages_of_many(session, [job.id for job in page.items])
    shown = [present.job_view(job, stages[job.id]) for job in page.items]
    return present.list_view(shown, page.has_more)


@router.get("/{job_id}", responses={304: {"description": "Nothing changed (If-None-Match)"}})
async def read_job(
    job_id: str,
    request: Request,
    principal: Viewer,
    sessions: SessionsDep,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
    since_version: Annotated[int | None, Query(ge=0, le=MAX_SEQ)] = None,
) -> JobView:
    """Read a job; with ``wait`` and ``since_version`` hold the answer until it has changed."""

    def has_changed() -> bool:
        with sessions.read() as session:
            version = jobs.version_of(session, principal.tenant_id, job_id)
        return since_version is None or version > since_version

    def read() -> JobView:
        with sessions.read() as session:
            job = jobs.get(session, principal.tenant_id, job_id)
            return present.job_view(job, jobs.stages_of(session, job_id))

    await request.app.state.waiters.until(has_changed, request, wait)
    view = await run_in_threadpool(read)
    etag = f'W/"{view.id}.{view.run.version}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})  # type: ignore[return-value]
    return JSONResponse(  # type: ignore[return-value]  # responses pass the view by as they are
        view.model_dump(mode="json"), headers={"ETag": etag, "Cache-Control": "no-cache"}
    )


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, principal: Submitter, session: SessionDep) -> JobView:
    """Cancel a job that is queued or running; a second time changes nothing."""
    job = jobs.cancel(session, principal.tenant_id, job_id)
    return present.job_view(job, jobs.stages_of(session, job_id))


@router.get("/{job_id}/events")
def list_events(
    job_id: str,
    principal: Viewer,
    session: ReadSessionDep,
    after: str | None = None,
    limit: Limit = 20,
) -> ListView[EventView]:
    """List what happened to a job, newest first."""
    jobs.version_of(session, principal.tenant_id, job_id)
    page = events.page(session, job_id, after=after, limit=limit)
    return present.list_view([present.event_view(event) for event in page.items], page.has_more)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(
    job_id: str,
    principal: Viewer,
    session: ReadSessionDep,
    after: str | None = None,
    limit: Limit = 10,
) -> ListView[CheckpointView]:
    """List the checkpoints of a job's policy, newest first."""
    job = jobs.get(session, principal.tenant_id, job_id)
    page = jobs.checkpoints_page(session, job_id, after=after, limit=limit)
    shown = [present.checkpoint_view(checkpoint, job) for checkpoint in page.items]
    return present.list_view(shown, page.has_more)


def _metadata_filter(request: Request) -> dict[str, str]:
    wanted = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if len(wanted) > 16:
        raise Invalid("at most 16 metadata filters", param="metadata")
    return wanted
