"""What clients asked for, and how far it is. The same request under the same key is the same operation."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, literal_column, or_, select, union, update

from common.untrusted_json import printable
from deployer.database import history
from deployer.database.errors import ConflictError, NotFoundError
from deployer.database.schema import operation, vps
from deployer.database.statements import each, follows, insert_unless_there, one
from deployer.database.words import SENTENCE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from deployer.database.words import Detail

WAITS_S: Final = 300.0
"""A worker asks for what is due each minute."""
_IS_OPEN: Final = operation.c.state.in_([literal_column("'wanted'"), literal_column("'running'")])


@dataclass(frozen=True, slots=True)
class Operation:
    """One request that takes time. ``detail``: names, references, reasons. ``total``: 0 where unknown."""

    id: str
    kind: str
    target: str
    asked_by: str
    idempotency_key: str | None
    request_digest: str
    state: str
    created_at: float
    changed_at: float
    done: int
    total: int
    detail: Mapping[str, Any]
    error: str


def begin(
    c: Connection,
    now: float,
    kind: str,
    target: str,
    actor: str,
    *,
    key: str = "",
    digest: str = "",
    total: int = 0,
    detail: Mapping[str, Detail] | None = None,
) -> Operation:
    """Write that something was asked for. Empty ``key``: the client does not ask twice.

    ``digest`` is of everything that the request says: the same client, key and digest are the same operation.

    Raises:
        ConflictError: this client used the key for another request.
    """
    row = {
        "id": str(uuid.uuid4()),
        "kind": kind,
        "target": target,
        "asked_by": actor,
        "idempotency_key": key or None,
        "request_digest": digest,
        "created_at": now,
        "changed_at": now,
        "total": total,
        "detail": dict(detail or {}),
    }
    if insert_unless_there(c, operation, row):
        history.note(c, now, actor, f"operation.{kind}", detail={"operation": row["id"], "target": target})
        return _there(c, str(row["id"]))
    same = operation.c.asked_by == actor, operation.c.idempotency_key == key
    found = one(Operation, c.execute(select(operation).where(*same)).first())
    if found is None or (found.request_digest, found.kind, found.target) != (digest, kind, target):
        raise ConflictError("this Idempotency-Key was used for another request: use a new one")
    return found


def get(c: Connection, operation_id: str) -> Operation | None:
    """Return an operation, or None."""
    return one(Operation, c.execute(select(operation).where(operation.c.id == operation_id)).first())


def page(
    c: Connection, *, before: tuple[float, str] | None = None, limit: int = 100
) -> tuple[Operation, ...]:
    """Return the newest first; ``before``: (created_at, id) of the last one of the former page."""
    query = select(operation).order_by(operation.c.created_at.desc(), operation.c.id).limit(limit)
    if before is not None:
        query = query.where(follows(operation.c.created_at, operation.c.id, before))
    return each(Operation, c.execute(query))


def unfinished(c: Connection, limit: int = 1000) -> tuple[Operation, ...]:
    """Return what is wanted or running, the oldest first: a worker that starts goes on with it."""
    query = select(operation).where(_IS_OPEN).order_by(operation.c.created_at).limit(limit)
    return each(Operation, c.execute(query))


def waiting(c: Connection, now: float) -> int:
    """Return how many VPSs wait for a worker that does not come.

    Their turn was :data:`WAITS_S` ago, or an order came that long ago and nobody has looked since.
    """
    before, free = now - WAITS_S, vps.c.lease_until <= now
    turn = select(vps.c.id).where(vps.c.next_look > 0, vps.c.next_look <= before, free)
    ordered = (
        select(vps.c.id)
        .join(operation, operation.c.target == vps.c.id)
        .where(_IS_OPEN, operation.c.created_at <= before, free, vps.c.failures == 0)
        .where(or_(vps.c.looked_at.is_(None), vps.c.looked_at < operation.c.created_at))
    )
    both = union(turn, ordered).subquery()
    return int(c.execute(select(func.count()).select_from(both)).scalar_one())


def progress(
    c: Connection,
    now: float,
    operation_id: str,
    done: int,
    *,
    total: int | None = None,
    detail: Mapping[str, Detail] | None = None,
) -> None:
    """Write how far it is. No effect where it has ended.

    Raises:
        NotFoundError: there is no such operation.
    """
    changes: dict[str, object] = {"state": "running", "done": done, "changed_at": now}
    if total is not None:
        changes["total"] = total
    if detail is not None:
        changes["detail"] = dict(detail)
    _change(c, operation_id, changes)


def finish(c: Connection, now: float, operation_id: str, detail: Mapping[str, Detail] | None = None) -> None:
    """Write that all of it is done. No effect where it has ended.

    Raises:
        NotFoundError: there is no such operation.
    """
    total = _there(c, operation_id).total
    changes: dict[str, object] = {"state": "done", "changed_at": now, "error": ""}
    if total:
        changes["done"] = total
    if detail is not None:
        changes["detail"] = dict(detail)
    _change(c, operation_id, changes)


def fail(c: Connection, now: float, operation_id: str, error: str) -> None:
    """Write that it can't be done, and why. No effect where it has ended.

    Raises:
        NotFoundError: there is no such operation.
    """
    _change(c, operation_id, {"state": "failed", "changed_at": now, "error": printable(error, SENTENCE)})


def _change(c: Connection, operation_id: str, changes: Mapping[str, object]) -> None:
    _there(c, operation_id)
    c.execute(update(operation).where(operation.c.id == operation_id, _IS_OPEN).values(**changes))


def _there(c: Connection, operation_id: str) -> Operation:
    found = get(c, operation_id)
    if found is None:
        raise NotFoundError("there is no operation of this id")
    return found
