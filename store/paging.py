"""Pages by cursor: ``after`` names the last item seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from store.errors import Invalid

T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some items, and whether more follow."""

    items: Sequence[T]
    has_more: bool


def page_of(session: Session, query: Select[T], *, limit: int) -> Page[T]:
    """Return the first ``limit`` rows of an ordered query."""
    rows = session.scalars(query.limit(limit + 1)).all()
    return Page(items=rows[:limit], has_more=len(rows) > limit)


def position(
    session: Session, order: InstrumentedAttribute[int], *conditions: ColumnElement[Any], after: str
) -> int:
    """Return where the cursor ``after`` stands in the order of a list."""
    found = session.scalar(select(order).where(*conditions))
    if found is None:
        raise Invalid(
            f"after: there is no item {after!r} in this list; use the id of the last item seen",
            param="after",
        )
    return found
