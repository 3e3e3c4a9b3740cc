"""``/v1/files``: upload, list, read and delete training files."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, BackgroundTasks, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from server import present, upload
from server.deps import ReadSessionDep, SessionDep, SessionsDep, SettingsDep, Submitter, Viewer
from server.training_files import PURPOSE, check_fields, checked_report, stored
from store import files
from store.ids import new_id
from vrpo.contract.views import DeletedView, FileReportView, FileView, ListView

router = APIRouter(prefix="/v1/files", tags=["files"])

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": [PURPOSE]},
                    },
                }
            }
        },
    }
}


@router.post("", openapi_extra=_FORM)
async def upload_file(
    request: Request, principal: Submitter, sessions: SessionsDep, settings: SettingsDep
) -> FileView:
    """Upload a JSON Lines file of training rows.

    Every row is checked before the file exists; a fault names the line and the field.
    """
    file_id = new_id("file-")
    path = settings.files / f".{file_id}.part"
    async with upload.receive(request, path, max_bytes=settings.max_file_bytes) as received:
        check_fields(received.fields)
        report = await run_in_threadpool(checked_report, received)
        row = await run_in_threadpool(
            stored,
            sessions,
            principal.tenant_id,
            received,
            report,
            file_id=file_id,
            target=settings.files / file_id,
        )
    return present.file_view(row)


@router.get("")
def list_files(
    principal: Viewer,
    session: ReadSessionDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> ListView[FileView]:
    """List the files, newest first unless ``order=asc``."""
    page = files.page(
        session, principal.tenant_id, after=after, limit=limit, order=order, purpose=purpose
    )
    return present.list_view([present.file_view(file) for file in page.items], page.has_more)


@router.get("/{file_id}")
def read_file(file_id: str, principal: Viewer, session: ReadSessionDep) -> FileView:
    """Read what is known of a file."""
    return present.file_view(files.get(session, principal.tenant_id, file_id))


@router.get("/{file_id}/report")
def read_file_report(file_id: str, principal: Viewer, session: ReadSessionDep) -> FileReportView:
    """Read what the checks found in a file, and which methods its rows suit."""
    return present.file_report_view(files.get(session, principal.tenant_id, file_id))


@router.get("/{file_id}/content", response_class=FileResponse)
def read_file_content(file_id: str, principal: Viewer, session: ReadSessionDep) -> FileResponse:
    """Download a file's bytes."""
    file = files.get(session, principal.tenant_id, file_id)
    return FileResponse(
        Path(file.path),
        media_type="application/octet-stream",
        filename=file.filename,
        headers={"ETag": f'"{file.sha256}"'},
    )


@router.delete("/{file_id}")
def delete_file(
    file_id: str, principal: Submitter, session: SessionDep, tasks: BackgroundTasks
) -> DeletedView:
    """Delete a file that no open job needs."""
    path = files.delete(session, principal.tenant_id, file_id)
    tasks.add_task(path.unlink, missing_ok=True)  # after the commit
    return DeletedView(id=file_id, object="file")
