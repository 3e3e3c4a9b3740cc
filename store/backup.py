"""Checks and copies of a database."""

from pathlib import Path

from sqlalchemy import Engine, text

from store.errors import Invalid


def integrity_faults(engine: Engine) -> list[str]:
    """Return what SQLite's own check finds wrong; nothing is found on Postgres."""
    if engine.dialect.name != "sqlite":
        return []
    with engine.connect() as connection:
        found = list(connection.scalars(text("PRAGMA integrity_check")))
    return [] if found == ["ok"] else found


def backup(engine: Engine, target: Path) -> None:
    """Write a consistent copy of a SQLite database that is in use. Raises ``Invalid``."""
    if engine.dialect.name != "sqlite":
        raise Invalid("backup copies SQLite databases; use pg_dump for Postgres")
    if target.exists():
        raise Invalid(f"{target} exists; name a file that does not")
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM INTO ?", (str(target),))
    finally:
        raw.close()
