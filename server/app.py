"""The application, made from settings; importing this file does nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic.json_schema import models_json_schema

from server import errors
from server.catalogue import CatalogueFile
from server.middleware import RequestScope
from server.routes import admin, files, fine_tuning, health, job_data, jobs, models
from server.settings import ServerSettings
from server.telemetry import Telemetry
from server.training_files import LEFTOVER_AGE_S, remove_leftovers
from server.waiting import Waiters
from store import keys
from store.migrate import upgrade
from store.session import Sessions, make_engine, make_sessions
from vrpo.contract.spec import CreateJob
from vrpo.contract.views import CreateKey, ErrorEnvelope

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": description}
    for status, description in {
        400: "The request is wrong; `param` names the field",
        401: "No valid API key",
        403: "The key's role does not reach this far",
        404: "No such thing in this tenant",
        409: "The present state does not allow it",
        413: "Too large",
        500: "A fault of the server",
        503: "The database is busy; try again",
    }.items()
}


class _Api(FastAPI):
    """FastAPI, whose OpenAPI document shows the bodies that are read by hand, and no 422."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            _, bodies = models_json_schema(
                [(CreateJob, "validation"), (CreateKey, "validation")],
                ref_template="#/components/schemas/{model}",
            )
            components = document["components"]["schemas"]
            components.update(bodies["$defs"])
            for name in ("HTTPValidationError", "ValidationError"):
                components.pop(name, None)
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
        assert self.openapi_schema is not None
        return self.openapi_schema


def create_app(settings: ServerSettings | None = None) -> FastAPI:
    """Return the application; its database is upgraded when it starts to serve."""
    settings = settings or ServerSettings()
    settings.make_folders()
    engine = make_engine(settings.database_url)
    sessions = make_sessions(engine)
    telemetry = Telemetry(sessions)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(_prepare, sessions, settings)
        yield
        engine.dispose()

    app = _Api(
        title="VRPO fine-tuning",
        version="1",
        description="OpenAI's fine-tuning API, the method `vrpo`, and `run`.",
        lifespan=lifespan,
        responses=_ERRORS,
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.sessions = sessions
    app.state.telemetry = telemetry
    app.state.catalogue = CatalogueFile(settings.models_file)
    app.state.waiters = Waiters(settings)
    errors.install(app)
    app.state.routers = [
        resource.router for resource in (files, models, jobs, job_data, fine_tuning, admin, health)
    ]
    for router in app.state.routers:
        app.include_router(router)
    app.add_middleware(RequestScope, telemetry=telemetry)
    return app


def _prepare(sessions: Sessions, settings: ServerSettings) -> None:
    upgrade(sessions.engine)
    with sessions.begin() as session:
        keys.ensure_admin_key(session, settings.home)
    remove_leftovers(sessions, settings.files, older_than_s=LEFTOVER_AGE_S)
