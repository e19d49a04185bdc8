"""Which backups were written, where to, and which of them were read back and found true."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import insert, select, update

from common.untrusted_json import printable
from deployer.database import history
from deployer.database.errors import NotFoundError
from deployer.database.schema import backup
from deployer.database.statements import each, one
from deployer.database.words import SENTENCE

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


@dataclass(frozen=True, slots=True)
class BackupRow:
    """One backup. ``digest`` is SHA-256 of the encrypted file, in hexadecimal; ``size`` its bytes."""

    id: str
    begun_at: float
    ended_at: float | None
    state: str
    destination: str
    object: str
    digest: str
    size: int
    vpses: int
    secrets: int
    proved_at: float | None
    error: str


def begin(c: Connection, now: float, destination: str, actor: str) -> str:
    """Write that one begins; return its id."""
    backup_id = str(uuid.uuid4())
    c.execute(insert(backup).values(id=backup_id, begun_at=now, destination=destination))
    history.note(c, now, actor, "backup.begin", detail={"backup": backup_id, "destination": destination})
    return backup_id


def written(
    c: Connection,
    now: float,
    backup_id: str,
    name: str,
    digest: str,
    *,
    size: int,
    vpses: int,
    secrets: int,
) -> None:
    """Write what was stored, under which name.

    Raises:
        NotFoundError: there is no such backup; so for the functions below.
    """
    counted = {"object": name, "digest": digest, "size": size, "vpses": vpses, "secrets": secrets}
    _change(c, backup_id, {"state": "written", "ended_at": now, **counted})


def proved(c: Connection, now: float, backup_id: str) -> None:
    """Write that it was read back and says what is true."""
    _change(c, backup_id, {"state": "proved", "proved_at": now, "error": ""})


def failed(c: Connection, now: float, backup_id: str, error: str) -> None:
    """Write why it is none, or why it could not be proved."""
    _change(c, backup_id, {"state": "failed", "ended_at": now, "error": printable(error, SENTENCE)})


def page(c: Connection, limit: int = 100) -> tuple[BackupRow, ...]:
    """Return the newest first."""
    query = select(backup).order_by(backup.c.begun_at.desc(), backup.c.id).limit(limit)
    return each(BackupRow, c.execute(query))


def newest(c: Connection, destination: str, *, good: bool = False) -> BackupRow | None:
    """Return the newest of one destination, or None; ``good``: one that was written, and not found wrong."""
    query = select(backup).where(backup.c.destination == destination)
    if good:
        query = query.where(backup.c.state.in_(["written", "proved"]))
    return one(BackupRow, c.execute(query.order_by(backup.c.begun_at.desc(), backup.c.id).limit(1)).first())


def get(c: Connection, backup_id: str) -> BackupRow | None:
    """Return a backup, or None."""
    return one(BackupRow, c.execute(select(backup).where(backup.c.id == backup_id)).first())


def _change(c: Connection, backup_id: str, changes: dict[str, object]) -> None:
    if not c.execute(update(backup).where(backup.c.id == backup_id).values(**changes)).rowcount:
        raise NotFoundError("there is no backup of this id")
