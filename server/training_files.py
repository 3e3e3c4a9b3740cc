"""Checking an upload's rows and giving it its place: bytes first, then the row."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.upload import Upload
from store import files
from store.models import File
from store.session import Sessions
from vrpo.contract.validation import RequestFault, RequestRefused
from vrpo.data import formats

PURPOSE = "fine-tune"
METHODS = ("vrpo", "dpo", "supervised")
MAX_FAULTS = 100
LEFTOVER_AGE_S = 24 * 3600
"""Longer than any upload takes, so that no other server is still at it."""


def check_fields(fields: Mapping[str, str]) -> None:
    """Refuse a form that asks for anything but a training file. Raises ``RequestRefused``."""
    for name in fields:
        if name != "purpose":
            raise RequestRefused(
                [
                    RequestFault(
                        code="unknown_parameter",
                        message=f"unknown field {ascii(name)[:80]}; a file has the fields file and"
                        " purpose, and is kept until it is deleted",
                        param=name[:80],
                    )
                ]
            )
    if fields.get("purpose") != PURPOSE:
        raise RequestRefused(
            [RequestFault("invalid_value", f"purpose must be {PURPOSE}", "purpose")]
        )


def checked_report(received: Upload) -> dict[str, Any]:
    """Return the report on an upload, with the methods its rows suit. Raises ``RequestRefused``."""
    if received.size == 0:
        raise RequestRefused([RequestFault("empty_file", "the file is empty", "file")])
    report = formats.check_file(received.path, method=None, max_faults=MAX_FAULTS)
    if report.faults:
        raise RequestRefused(
            [
                RequestFault(
                    code=fault.code,
                    message=str(fault),
                    param="file",
                )
                for fault in report.faults
            ]
        )
    methods = [method for method in METHODS if report.supports(method)]
    return {**report.to_json(), "methods": methods}


def stored(
    sessions: Sessions,
    tenant: str,
    received: Upload,
    report: dict[str, Any],
    *,
    file_id: str,
    target: Path,
) -> File:
    """Move the upload to ``target`` and record it; without the row the bytes go again."""
    received.path.replace(target)
    _sync_folder(target.parent)
    try:
        with sessions.begin() as session:
            return files.add(
                session,
                tenant,
                file_id=file_id,
                filename=received.filename,
                purpose=PURPOSE,
                size=received.size,
                sha256=received.sha256,
                path=target,
                report=report,
            )
    except Exception:
        target.unlink(missing_ok=True)
        raise


def remove_leftovers(sessions: Sessions, folder: Path, *, older_than_s: float) -> None:
    """Remove bytes that a killed server left without a row."""
    oldest = time.time() - older_than_s
    left = [path for path in folder.iterdir() if path.stat().st_mtime < oldest]
    if not left:
        return
    with sessions.read() as session:
        known = files.known_ids(session)
    for path in left:
        if path.name not in known:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
