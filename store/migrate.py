"""Bringing a database to the newest schema, one process at a time."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import filelock
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

import migrations
from store.models import Tenant

LOCK_TIMEOUT_S = 300
_ADVISORY_LOCK = 8_204_137_840_235_001
"""Any number that no other program on the same Postgres uses."""


def upgrade(engine: Engine) -> None:
    """Apply the migrations that are missing, under a lock that other starting processes await."""
    with _one_at_a_time(engine), engine.connect() as connection:
        command.upgrade(_config(connection), "head")
        connection.commit()


def downgrade(engine: Engine, revision: str) -> None:
    """Go back to an older schema; ``base`` is the empty one."""
    with _one_at_a_time(engine), engine.connect() as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def differences(engine: Engine) -> list[str]:
    """Return how the database differs from the tables in ``store.models``, in words."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(found) for found in compare_metadata(context, Tenant.metadata)]


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", next(iter(migrations.__path__)))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        if not database or database == ":memory:":
            yield
            return
        with filelock.FileLock(f"{database}.migrate.lock", timeout=LOCK_TIMEOUT_S):
            yield
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # Polled, because waiting inside the database deadlocks with CREATE INDEX CONCURRENTLY.
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        key = {"key": _ADVISORY_LOCK}
        while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key):
            if time.monotonic() > deadline:
                raise TimeoutError("another process has been migrating the database for 5 minutes")
            time.sleep(0.2)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)
