"""What is deleted when it is old: of what has ended only. A trigger keeps history for a year, whoever asks.

What a rotation leaves behind is deleted with the history of its day, so that the history of a former year is
whole or not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import delete, func, select

from deployer.database.schema import backup, history, operation, rotation, version

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_NEWEST_BACKUPS: Final = select(func.max(backup.c.begun_at)).group_by(backup.c.destination)
_ENDED: Final = (
    (history.c.id, (), history.c.at),
    (operation.c.id, (operation.c.state.in_(["done", "failed"]),), operation.c.changed_at),
    (rotation.c.id, (), rotation.c.ended_at),
    (version.c.uuid, (), version.c.gone_at),
    (backup.c.id, (backup.c.begun_at.not_in(_NEWEST_BACKUPS),), backup.c.ended_at),
)
"""The key of each table, what must be so besides, and when a row ended: NULL is never before a date."""


def prune(c: Connection, before: float, limit: int) -> int:
    """Delete what ended before a moment, at most ``limit`` rows of each table; return how many.

    An Idempotency-Key goes with its operation.
    """
    gone = 0
    for key, besides, ended in _ENDED:
        old = select(key).where(ended < before, *besides).order_by(ended).limit(limit)
        gone += int(c.execute(delete(key.table).where(key.in_(old))).rowcount)
    return gone
