"""What every answer gets: a request id, its duration in the metrics, and no content sniffing."""

import logging
import secrets
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import error_response, internal_error
from server.telemetry import Telemetry

log = logging.getLogger("vrpo.server")


class RequestScope:
    """Wraps the whole application, its error handlers included."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; anything that is not HTTP passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        started = time.perf_counter()
        status: int | None = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            if "\x00" in scope["path"] or b"%00" in scope["query_string"]:
                refusal = error_response(
                    400, "the address holds a NUL character", code="invalid_value"
                )
                await refusal(scope, receive, send_with_headers)
                return
            await self.app(scope, receive, send_with_headers)
        except Exception:
            log.exception("%s %s %s failed", request_id, scope["method"], _template(scope))
            if status is not None:
                raise
            await internal_error()(scope, receive, send_with_headers)
        finally:
            self.telemetry.observe_request(
                method=scope["method"],
                route=_template(scope),
                status=status or 500,
                seconds=time.perf_counter() - started,
            )


def _template(scope: Scope) -> str:
    """Return the path of the route, which holds no ids."""
    return str(getattr(scope.get("route"), "path", "unknown"))
