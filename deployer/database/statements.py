"""Statements that SQLite and PostgreSQL write differently, and rows as our own values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import and_, or_
from sqlalchemy.dialects import postgresql, sqlite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

Row = TypeVar("Row")


def one(kind: type[Row], found: Any) -> Row | None:
    """Return a row as a value of ours, whose fields are the table's columns in their order; or None."""
    return None if found is None else kind(*found)


def each(kind: type[Row], found: Any) -> tuple[Row, ...]:
    """Return rows as values of ours; see :func:`one`."""
    return tuple(kind(*row) for row in found)


def follows(moment: Any, key: Any, last: tuple[float, str]) -> Any:
    """Return the condition of what comes after a row, where the newest come first and then the lowest key."""
    at, last_key = last
    return or_(moment < at, and_(moment == at, key > last_key))


def insert_unless_there(c: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row; return False, and change nothing, where a unique index has it already."""
    return bool(c.execute(_insert(c)(table).values(**row).on_conflict_do_nothing()).rowcount)


def upsert(c: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or change those with the same primary key to these values."""
    if not rows:
        return
    keys = [column.name for column in table.primary_key]
    insert = _insert(c)(table)
    changed = {name: insert.excluded[name] for name in rows[0] if name not in keys}
    c.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), list(rows))


def _insert(c: Connection) -> Any:
    return sqlite.insert if c.dialect.name == "sqlite" else postgresql.insert
