"""What ``cloud verify`` and other checks found, the newest for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select

from deployer.database.schema import check_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.database.words import Detail


@dataclass(frozen=True, slots=True)
class CheckRow:
    """What one run of one check found; ``detail`` in words and names."""

    id: int
    at: float
    name: str
    passed: bool
    detail: Mapping[str, Any]


def record(
    c: Connection, now: float, name: str, *, passed: bool, detail: Mapping[str, Detail] | None = None
) -> None:
    """Keep what a check found."""
    row = {"at": now, "name": name, "passed": int(passed), "detail": dict(detail or {})}
    c.execute(insert(check_result).values(**row))


def latest(c: Connection) -> tuple[CheckRow, ...]:
    """Return the newest result of each check, in the order of their names."""
    newest = select(func.max(check_result.c.id)).group_by(check_result.c.name)
    query = select(check_result).where(check_result.c.id.in_(newest)).order_by(check_result.c.name)
    return tuple(CheckRow(row.id, row.at, row.name, bool(row.passed), row.detail) for row in c.execute(query))


def forget(c: Connection, name: str) -> None:
    """Delete every result of a check that is not made any more."""
    c.execute(delete(check_result).where(check_result.c.name == name))


def prune(c: Connection, before: float) -> None:
    """Delete what is older than a moment, but keep the newest of each check."""
    newest = select(func.max(check_result.c.id)).group_by(check_result.c.name)
    c.execute(
        delete(check_result).where(
            check_result.c.at < before, check_result.c.id.not_in(newest.scalar_subquery())
        )
    )
