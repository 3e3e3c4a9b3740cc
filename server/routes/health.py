"""``/healthz``, ``/readyz``, ``/metrics``: for whoever runs the service; no key is needed."""

from fastapi import APIRouter, Request, Response
from sqlalchemy import text

from server.deps import ReadSessionDep

router = APIRouter(tags=["operations"])


@router.get("/healthz")
def read_health() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def read_readiness(session: ReadSessionDep) -> dict[str, str]:
    """Whether the database answers; 503 while it does not."""
    session.execute(text("SELECT 1 FROM tenants"))
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
def read_prometheus(request: Request) -> Response:
    """Metrics in Prometheus's text form."""
    return Response(request.app.state.telemetry.text(), media_type="text/plain; version=0.0.4")
