"""Inserts that may be repeated."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from store.columns import Base


def insert_new(session: Session, table: type[Base], rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows; those whose key is there already are left as they are."""
    rows = list(rows)
    if not rows:
        return
    target = table.__table__
    assert isinstance(target, Table)
    if session.get_bind().dialect.name == "sqlite":
        session.execute(sqlite.insert(target).on_conflict_do_nothing(), rows)
    else:
        session.execute(postgresql.insert(target).on_conflict_do_nothing(), rows)
