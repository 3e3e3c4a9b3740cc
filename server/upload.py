"""A multipart upload, written to disk while it streams in and stopped once it is too large."""

import hashlib
import os
import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.deps import refuse_encoded
from server.errors import TooLarge
from vrpo.contract.validation import RequestFault, RequestRefused

MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 16
MAX_DRAINED_BYTES = 64 * 1024**2
"""How much of a refused body is still read, so that the client gets to read the refusal."""


@dataclass
class Upload:
    """One file on disk under a temporary name, and the form's other fields."""

    path: Path
    filename: str = "upload.jsonl"
    fields: dict[str, str] = field(default_factory=dict)
    size: int = 0
    sha256: str = ""
    has_file: bool = False


@asynccontextmanager
async def receive(request: Request, path: Path, *, max_bytes: int) -> AsyncIterator[Upload]:
    """Stream the form's ``file`` to ``path``, durable on return.

    Raises ``TooLarge`` and ``RequestRefused``. The file at ``path`` is gone when the block ends,
    whichever way it ends, unless the caller has moved it.
    """
    refuse_encoded(request)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise _refused("send the file as multipart/form-data with the fields file and purpose")
    try:
        with path.open("xb") as file:
            form = _Form(Upload(path), file, max_bytes=max_bytes)
            await _feed(request, form, options[b"boundary"])
            await run_in_threadpool(_sync, file)
        if not form.upload.has_file:
            raise _refused("the form has no file", code="missing_required_parameter", param="file")
        yield form.upload
    finally:
        path.unlink(missing_ok=True)


class _Form:
    """Callbacks of the multipart parser; each part is the file or a small field."""

    def __init__(self, upload: Upload, file: BinaryIO, *, max_bytes: int) -> None:
        self.upload = upload
        self._file = file
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._parts = 0
        self.is_complete = False

    def on_part_begin(self) -> None:
        self._disposition = b""
        self._value = bytearray()
        self._parts += 1
        if self._parts > MAX_FIELDS:
            raise _refused(f"the form has more than {MAX_FIELDS} fields")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._name == "file"
        if self._is_file and self.upload.has_file:
            raise _refused("the form has two files; upload one at a time", param="file")
        if self._is_file:
            self.upload.has_file = True
            self.upload.filename = _label(options.get(b"filename", b""))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        chunk = data[start:end]
        if self._is_file:
            self.upload.size += len(chunk)
            if self.upload.size > self._max_bytes:
                raise TooLarge(
                    f"the file is larger than {self._max_bytes} bytes",
                    code="file_too_large",
                    param="file",
                )
            self._digest.update(chunk)
            self._file.write(chunk)
            return
        self._value += chunk
        if len(self._value) > MAX_FIELD_BYTES:
            raise _refused(f"the field {self._name!r} is longer than {MAX_FIELD_BYTES} bytes")

    def on_part_end(self) -> None:
        if not self._is_file:
            self.upload.fields[self._name] = self._value.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.upload.sha256 = self._digest.hexdigest()
        self.is_complete = True


async def _feed(request: Request, form: _Form, boundary: bytes) -> None:
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": form.on_part_begin,
            "on_header_field": form.on_header_field,
            "on_header_value": form.on_header_value,
            "on_header_end": form.on_header_end,
            "on_headers_finished": form.on_headers_finished,
            "on_part_data": form.on_part_data,
            "on_part_end": form.on_part_end,
            "on_end": form.on_end,
        },
    )
    body = request.stream()
    try:
        async for chunk in body:
            await run_in_threadpool(parser.write, chunk)
        parser.finalize()
    except FormParserError as error:
        raise _refused("the multipart form is malformed") from error
    except (TooLarge, RequestRefused):
        drained = 0
        async for chunk in body:
            drained += len(chunk)
            if drained > MAX_DRAINED_BYTES:
                break
        raise
    if not form.is_complete:
        raise _refused("the multipart form ends before its closing boundary")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _label(filename: bytes) -> str:
    """Return a file name that is only shown: its last part, without control characters."""
    name = filename.decode("utf-8", "replace").replace("\\", "/").rsplit("/", 1)[-1]
    shown = "".join(c for c in name if not unicodedata.category(c).startswith("C"))
    return shown[:255] or "upload.jsonl"


def _refused(
    message: str, *, code: str = "invalid_value", param: str | None = None
) -> RequestRefused:
    return RequestRefused([RequestFault(code=code, message=message, param=param)])
