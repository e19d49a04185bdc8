"""Who asked for what, and what was done: only appended to, and kept for a year at least.

References and reasons, never a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert, select

from deployer.database.schema import history
from deployer.database.statements import each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.database.words import Detail


BY_HAND: Final = "account.by-hand"
MOST_BY_HAND: Final = 100


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One thing that was asked for or done. Later ones have a higher ``id``."""

    id: int
    at: float
    actor: str
    action: str
    vps: str
    name: str
    rotation: str
    detail: Mapping[str, Any]


def note(
    c: Connection,
    now: float,
    actor: str,
    action: str,
    *,
    vps: str = "",
    name: str = "",
    rotation: str = "",
    detail: Mapping[str, Detail] | None = None,
) -> None:
    """Append. ``actor`` is a person, a client's name or ``worker``; ``action`` such as ``vps.revoke``."""
    c.execute(
        insert(history).values(
            at=now,
            actor=actor,
            action=action,
            vps=vps,
            name=name,
            rotation=rotation,
            detail=detail or {},
        )
    )


def by_hand(c: Connection, now: float, vps: str, words: str) -> None:
    """Keep what the worker had to leave to a person."""
    note(c, now, "worker", BY_HAND, vps=vps, detail={"toDo": words})


def left_to_a_person(c: Connection, since: float, vps: str | None = None) -> tuple[str, ...]:
    """Return what was left to a person since then, of one VPS or of all; each once, the newest first."""
    query = select(history).where(history.c.action == BY_HAND, history.c.at >= since)
    if vps is not None:
        query = query.where(history.c.vps == vps)
    rows = each(HistoryRow, c.execute(query.order_by(history.c.id.desc()).limit(MOST_BY_HAND)))
    return tuple(dict.fromkeys(str(row.detail["toDo"]) for row in rows))


def last(c: Connection, vps: str, action: str) -> float | None:
    """Return when something was done with a VPS for the last time, None where it never was."""
    query = select(history.c.at).where(history.c.vps == vps, history.c.action == action)
    at = c.execute(query.order_by(history.c.id.desc()).limit(1)).scalar()
    return None if at is None else float(at)


def has(c: Connection, vps: str, action: str, name: str, rotation: str) -> bool:
    """Tell whether something was done with a name in a rotation."""
    of_it = history.c.action == action, history.c.name == name, history.c.rotation == rotation
    return c.execute(select(history.c.id).where(history.c.vps == vps, *of_it).limit(1)).first() is not None


def page(
    c: Connection, *, vps: str | None = None, before: int | None = None, limit: int = 100
) -> tuple[HistoryRow, ...]:
    """Return the newest first: of one VPS, or of all; ``before`` is the last ``id`` of the former page."""
    query = select(history).order_by(history.c.id.desc()).limit(limit)
    if vps is not None:
        query = query.where(history.c.vps == vps)
    if before is not None:
        query = query.where(history.c.id < before)
    return each(HistoryRow, c.execute(query))


def since(c: Connection, after: int, limit: int = 1000) -> tuple[HistoryRow, ...]:
    """Return what came after an ``id``, oldest first.

    On PostgreSQL a transaction that was slow may add a lower ``id`` later: this is for showing what happens,
    not for deciding by it.
    """
    query = select(history).where(history.c.id > after).order_by(history.c.id).limit(limit)
    return each(HistoryRow, c.execute(query))
