"""Every error as OpenAI's body ``{"error": {message, type, param, code}}`` with its status."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError, TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from store import errors
from vrpo.contract.validation import RequestRefused
from vrpo.contract.views import ErrorBody, ErrorEnvelope
from vrpo.errors import ModelNotAllowed

NO_RETRY = {"x-should-retry": "false"}
"""The SDK retries 409 unless it is told not to."""

STATUS: Mapping[type[errors.StoreError], tuple[int, str]] = {
    errors.InvalidKey: (401, "authentication_error"),
    errors.NotAllowed: (403, "permission_error"),
    errors.NotFound: (404, "invalid_request_error"),
    errors.JobNotFound: (404, "invalid_request_error"),
    errors.FileNotFound: (404, "invalid_request_error"),
    errors.ModelNotFound: (404, "invalid_request_error"),
    errors.ArtifactNotFound: (404, "invalid_request_error"),
    errors.KeyNotFound: (404, "invalid_request_error"),
    errors.Invalid: (400, "invalid_request_error"),
    errors.Conflict: (409, "conflict_error"),
    errors.InvalidJobState: (409, "conflict_error"),
    errors.FileInUse: (409, "conflict_error"),
    errors.ModelInUse: (409, "conflict_error"),
    errors.IdempotencyKeyReused: (409, "conflict_error"),
    errors.StaleTransition: (409, "conflict_error"),
}


class TooLarge(Exception):
    """Raised while a body streams in, once it is larger than allowed."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


def error_response(
    status: int,
    message: str,
    *,
    type: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an answer in OpenAI's error form."""
    body = ErrorEnvelope(error=ErrorBody(message=message, type=type, param=param, code=code))
    return JSONResponse(body.model_dump(), status_code=status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Give the application a handler for every error that can leave a route."""
    app.add_exception_handler(errors.StoreError, _store_error)
    app.add_exception_handler(RequestRefused, _request_refused)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(TooLarge, _too_large)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_busy)
    app.add_exception_handler(PoolTimeout, _database_busy)
    app.add_exception_handler(ModelNotAllowed, _list_unreadable)


async def _store_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.StoreError)
    status, kind = STATUS[type(error)]
    headers: dict[str, str] = {}
    if isinstance(error, errors.Conflict):
        headers = NO_RETRY
    elif status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return error_response(
        status, error.message, type=kind, code=error.code, param=error.param, headers=headers
    )


async def _request_refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestRefused)
    first, others = error.faults[0], error.faults[1:]
    message = "; ".join([first.message, *(fault.message for fault in others[:9])])
    return error_response(400, message, code=first.code, param=first.param)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    return error_response(
        400, f"{param}: {first['msg'].removeprefix('Input ')}", code="invalid_value", param=param
    )


async def _too_large(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TooLarge)
    return error_response(
        413, str(error), code=error.code, param=error.param, headers={"Connection": "close"}
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 404:
        message, code = f"there is no {request.method} {request.url.path}", "not_found"
    elif error.status_code == 405:
        message, code = f"{request.url.path} has no {request.method}", "method_not_allowed"
        headers["Allow"] = ", ".join(_methods_of(request))
    else:
        message, code = str(error.detail), "invalid_request"
    return error_response(error.status_code, message, code=code, headers=headers)


def _methods_of(request: Request) -> list[str]:
    """Return what the path can be asked by; each method is a route of its own."""
    routes = [route for router in request.app.state.routers for route in router.routes]
    path = request.url.path
    return sorted({m for route in routes if route.path_regex.match(path) for m in route.methods})


async def _database_busy(request: Request, error: Exception) -> JSONResponse:
    return error_response(
        503,
        "the database is busy or cannot be written; try again",
        type="server_error",
        code="database_busy",
        headers={"Retry-After": "1"},
    )


async def _list_unreadable(request: Request, error: Exception) -> JSONResponse:
    return error_response(
        500,
        "the operator's list of models cannot be read; the operator finds why by `vrpo doctor`",
        type="server_error",
        code="internal_error",
    )


def internal_error() -> JSONResponse:
    """Return the answer to a fault of ours; the log has the rest, under the request's id."""
    return error_response(
        500,
        "something went wrong on the server; the operator finds it in its log by the request id",
        type="server_error",
        code="internal_error",
    )
