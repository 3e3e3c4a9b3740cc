"""``/v1/fine_tuning``: the dry run, the queue, the feed of changes."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from server import present
from server.checks import check_request, warnings_of
from server.deps import BodyDep, CatalogueDep, ReadSessionDep, SessionsDep, Viewer
from server.routes.jobs import JOB_BODY, MAX_SEQ
from store import changes, files, jobs
from store.errors import FileNotFound
from vrpo.contract.job_views import ChangesView, FineTuningQueueView, QueuedJobView
from vrpo.contract.spec import resolve
from vrpo.contract.status import JobStatus
from vrpo.contract.validation import RequestFault, RequestRefused, parse_job
from vrpo.contract.views import FaultView, ValidationView

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])


@router.post("/validate", openapi_extra=JOB_BODY)
def validate_job(
    body: BodyDep, principal: Viewer, session: ReadSessionDep, catalogue: CatalogueDep
) -> ValidationView:
    """Check the body of a job without creating it; faults are in the answer."""
    try:
        request = parse_job(body.raw)
    except RequestRefused as refusal:
        return ValidationView(valid=False, errors=_fault_views(list(refusal.faults)))
    faults = check_request(session, principal.tenant_id, request, catalogue)
    try:
        report = files.get(session, principal.tenant_id, request.training_file).report
    except FileNotFound:
        report = None
    return ValidationView(
        valid=not faults,
        errors=_fault_views(faults),
        warnings=warnings_of(request),
        resolved=resolve(request, seed=secrets.randbelow(2**31)).model_dump(mode="json"),
        data=report,
    )


@router.get("/queue")
def read_queue(principal: Viewer, session: ReadSessionDep) -> FineTuningQueueView:
    """Read which jobs wait, in the order in which they will run."""
    waiting = jobs.queued(session, principal.tenant_id)
    return FineTuningQueueView(
        data=[
            QueuedJobView(
                job_id=job.id,
                position=job.queue_position,
                reason=job.queue_reason,
                priority=job.priority,
                created_at=int(job.created_at.timestamp()),
            )
            for job in waiting
        ],
        running=jobs.counts(session, principal.tenant_id)[JobStatus.RUNNING],
    )


@router.get("/changes")
async def read_changes(
    request: Request,
    principal: Viewer,
    sessions: SessionsDep,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    wait: Annotated[float, Query(ge=0, le=60)] = 0,
) -> ChangesView:
    """Read the moves of all jobs and stages after a number; with ``wait`` hold until there is one.

    ``last_seq`` is the ``after`` of the next call: one cursor mirrors everything.
    """

    def has_changed() -> bool:
        with sessions.read() as session:
            return changes.last_seq(session, principal.tenant_id) > after

    def read() -> ChangesView:
        with sessions.read() as session:
            rows = changes.after(session, principal.tenant_id, after, limit=limit + 1)
        shown = [present.change_view(row) for row in rows[:limit]]
        last = shown[-1].seq if shown else after
        return ChangesView(data=shown, has_more=len(rows) > limit, last_seq=last)

    await request.app.state.waiters.until(has_changed, request, wait)
    return await run_in_threadpool(read)


def _fault_views(faults: list[RequestFault]) -> list[FaultView]:
    return [FaultView(code=f.code, message=f.message, param=f.param) for f in faults]
