"""Engines and sessions, for SQLite in WAL mode and for Postgres.

SQLite's driver opens transactions late and deferred, so a transaction that reads and then writes
is neither atomic nor able to wait for a lock. Here every transaction says what it is when it
begins: ``BEGIN IMMEDIATE`` when it may write, plain ``BEGIN`` when it only reads.
"""

import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from store.clean import clean_json

BUSY_TIMEOUT_S = 30


def _storable_json(value: object) -> str:
    return json.dumps(clean_json(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def make_engine(url: str) -> Engine:
    """Return an engine set up for ``url``: ``sqlite:///path`` or ``postgresql+psycopg://...``."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        engine = create_engine(
            parsed,
            json_serializer=_storable_json,
            pool_size=20,
            max_overflow=40,
            connect_args={"timeout": BUSY_TIMEOUT_S},
        )
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return create_engine(
        parsed,
        json_serializer=_storable_json,
        pool_size=20,
        max_overflow=40,
        pool_pre_ping=True,
        connect_args={
            "options": "-c statement_timeout=60000 -c lock_timeout=30000"
            " -c idle_in_transaction_session_timeout=60000"
        },
    )


def _set_up_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@dataclass(frozen=True)
class Sessions:
    """Makes sessions; each ``with`` is one transaction."""

    engine: Engine
    _write: sessionmaker[Session]
    _read: sessionmaker[Session]

    def begin(self) -> AbstractContextManager[Session]:
        """Open a transaction that may write; it commits when the block ends without an error."""
        return self._write.begin()

    def read(self) -> AbstractContextManager[Session]:
        """Open a transaction that only reads."""
        return self._read.begin()


def make_sessions(engine: Engine) -> Sessions:
    """Return the maker of sessions on ``engine``."""
    reader = engine.execution_options(read_only=True, postgresql_readonly=True)
    return Sessions(
        engine=engine,
        _write=sessionmaker(engine, autoflush=False, expire_on_commit=False),
        _read=sessionmaker(reader, autoflush=False, expire_on_commit=False),
    )
