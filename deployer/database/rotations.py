"""Rotations: each from its wish to its arrival, and whether it was in time.

A group of a VPS has at most one rotation that has not ended; the database itself holds that. To want one
again is no second one. Owns ``secret.state``, as far as an open rotation decides it.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, case, func, select, update

from common.untrusted_json import printable
from deployer.database import history
from deployer.database.errors import ConflictError, NotFoundError, RefusedValueError
from deployer.database.schema import REASONS, ROTATION_STATES, rotation, secret, vps
from deployer.database.statements import each, follows, insert_unless_there
from deployer.database.words import SENTENCE

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.engine import Connection

    from deployer.database.words import Detail

REPLACES: Final = ("compromised", "rollback")
"""Reasons that do not wait for what is under way: it may be what is wrong."""
_OPEN: Final = rotation.c.ended_at.is_(None)
_ENDED: Final = ("arrived", "given-up")


@dataclass(frozen=True, slots=True)
class RotationRow:
    """One rotation. ``due``: when it has to have arrived; None where no date asks for it.

    ``targets``: versions to list again instead of making any (a rollback).
    """

    id: str
    vps: str
    grp: str
    names: tuple[str, ...]
    reason: str
    asked_by: str
    note: str
    due: float | None
    wanted_at: float
    begun_at: float | None
    listed_at: float | None
    arrived_at: float | None
    ended_at: float | None
    state: str
    attempts: int
    last_error: str
    targets: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Figures:
    """Rotations whose date was within a time, and what is late now. ``worst_s``: the latest, by how much."""

    due: int
    in_time: int
    late: int
    worst_s: float
    open: int
    given_up: int
    unattended: int
    """Secrets past their date that rotate, but for which there is no rotation: the loop did not pass."""
    external: int
    """Secrets past their date that only a person can replace; not counted in the others."""


def want(
    c: Connection,
    now: float,
    vps_id: str,
    grp: str,
    names: Collection[str],
    *,
    reason: str,
    asked_by: str,
    rotation_id: str = "",
    due: float | None = None,
    note: str = "",
    targets: Mapping[str, str] | None = None,
) -> str:
    """Want a rotation of a group; return the id of the one that will be made, or is under way already.

    ``rotation_id``: of :mod:`deployer.core.schedule`, for one that a date asks for; empty for a new one.
    One that has arrived is the answer as it is. Where it was given up, or rolled back after it had arrived,
    the next one gets an id that follows from it: what it made is not to be listed again.
    An open one is joined, but a rollback or a compromise ends it first, since it may be what is wrong.
    One that is listed already makes nothing any more, so what a person orders then is another one: else a
    value that was given would be dropped for as long as the VPS is silent.

    Raises:
        RefusedValueError: there is no such reason, or no name.
        ConflictError: another transaction wanted one at the same moment, and ended it. Try again.
    """
    if reason not in REASONS or not names:
        raise RefusedValueError("a rotation has a reason, and names")
    # as every transaction does: the VPS first, then what belongs to it, so that none waits in a circle
    c.execute(select(vps.c.id).where(vps.c.id == vps_id).with_for_update())
    under_way = _open_of_group(c, vps_id, grp)
    if under_way is not None and not _gives_way(under_way, reason, rotation_id):
        _occupy(c, vps_id, grp)
        return under_way.id
    chosen = rotation_id or str(uuid.uuid4())
    while (same := get(c, chosen)) is not None and same.ended_at is not None:
        if same.state == "arrived" and not _is_due(c, now, vps_id, grp):
            return same.id  # whoever asks has looked before it arrived
        chosen = str(uuid.uuid5(uuid.NAMESPACE_OID, f"after {chosen}"))
    if under_way is not None:
        _end(c, now, under_way, "given-up", f"replaced by {chosen}: {reason}")
    row = {
        "id": chosen,
        "vps": vps_id,
        "grp": grp,
        "names": sorted(names),
        "reason": reason,
        "asked_by": asked_by,
        "note": printable(note, SENTENCE),
        "due": due,
        "wanted_at": now,
        "targets": dict(targets or {}),
    }
    if not insert_unless_there(c, rotation, row):
        winner = _open_of_group(c, vps_id, grp)  # of another worker, which committed meanwhile
        if winner is None:
            raise ConflictError(f"a rotation of {vps_id} was wanted and ended at this moment: try again")
        return winner.id
    _occupy(c, vps_id, grp)
    detail: dict[str, Detail] = {
        "reason": reason,
        "names": sorted(names),
        "due": due,
        "note": row["note"],
        "group": grp,
    }
    history.note(c, now, asked_by, "rotation.want", vps=vps_id, rotation=chosen, detail=detail)
    return chosen


def _gives_way(under_way: RotationRow, reason: str, rotation_id: str) -> bool:
    """Tell whether an open rotation is ended by one that is wanted for this reason."""
    if under_way.id == rotation_id:
        return False
    if reason in REPLACES:
        return under_way.reason != reason or under_way.state != "wanted"
    return reason == "ordered" and under_way.state == "listed"


def get(c: Connection, rotation_id: str) -> RotationRow | None:
    """Return a rotation, or None."""
    return _row(c, select(rotation).where(rotation.c.id == rotation_id))


def open_of(c: Connection, vps_id: str) -> tuple[RotationRow, ...]:
    """Return the rotations of a VPS that have not ended, in the order in which they were wanted."""
    query = select(rotation).where(rotation.c.vps == vps_id, _OPEN).order_by(rotation.c.wanted_at)
    return _rows(c, query)


def page(
    c: Connection, *, vps_id: str | None = None, before: tuple[float, str] | None = None, limit: int = 100
) -> tuple[RotationRow, ...]:
    """Return the newest first: of one VPS, or of all; ``before``: (wanted_at, id) of a page's last one."""
    query = select(rotation).order_by(rotation.c.wanted_at.desc(), rotation.c.id).limit(limit)
    if vps_id is not None:
        query = query.where(rotation.c.vps == vps_id)
    if before is not None:
        query = query.where(follows(rotation.c.wanted_at, rotation.c.id, before))
    return _rows(c, query)


def begun(c: Connection, rotation_id: str, at: float) -> None:
    """Count an attempt."""
    first = func.coalesce(rotation.c.begun_at, at)
    c.execute(
        update(rotation)
        .where(rotation.c.id == rotation_id, _OPEN)
        .values(begun_at=first, attempts=rotation.c.attempts + 1)
    )


def progress(c: Connection, rotation_id: str, state: str, at: float) -> None:
    """Write that it is ``listed``, has ``arrived`` or is ``given-up``; no effect where it is further.

    Say what the VPS has now first (:func:`deployer.database.secrets.seen`), in the same transaction: when a
    rotation ends, its secrets are found by their dates again.

    Raises:
        NotFoundError: there is no such rotation.
        RefusedValueError: there is no such state.
    """
    if state not in ROTATION_STATES:
        raise RefusedValueError("a rotation is wanted, listed, arrived or given-up")
    row = _row(c, select(rotation).where(rotation.c.id == rotation_id).with_for_update())
    if row is None:
        raise NotFoundError("there is no rotation of this id")
    if row.ended_at is not None or ROTATION_STATES.index(state) <= ROTATION_STATES.index(row.state):
        return
    if state in _ENDED:
        _end(c, at, row, state, row.last_error)
        return
    c.execute(update(rotation).where(rotation.c.id == rotation_id).values(state=state, listed_at=at))
    history.note(c, at, "worker", f"rotation.{state}", vps=row.vps, rotation=row.id)


def failed(c: Connection, rotation_id: str, error: str) -> None:
    """Write why the last attempt failed; it is tried again."""
    words = printable(error, SENTENCE)
    c.execute(update(rotation).where(rotation.c.id == rotation_id, _OPEN).values(last_error=words))


def emergencies(c: Connection) -> tuple[RotationRow, ...]:
    """Return what is compromised and not replaced yet, in the order in which it was wanted."""
    unlisted = rotation.c.reason == "compromised", rotation.c.state == "wanted"
    return _rows(c, select(rotation).where(_OPEN, *unlisted).order_by(rotation.c.wanted_at))


def give_up_emergencies(c: Connection, now: float, vps_id: str) -> None:
    """End what is compromised and not replaced yet: what was made of it may be known, too, and is deleted."""
    for row in open_of(c, vps_id):
        if row.reason == "compromised":
            _end(c, now, row, "given-up", "its VPS gets another identity: all is made anew after that")


def overdue(c: Connection, now: float, limit: int = 100) -> tuple[RotationRow, ...]:
    """Return those that should have arrived and have not, the latest first."""
    query = select(rotation).where(_OPEN, rotation.c.due < now).order_by(rotation.c.due).limit(limit)
    return _rows(c, query)


def figures(c: Connection, now: float, since: float) -> Figures:
    """Return how many were due between two moments, how many arrived in time, and by how much not."""
    in_time = and_(rotation.c.state == "arrived", rotation.c.arrived_at <= rotation.c.due)
    given_up = rotation.c.state == "given-up"
    delay = func.coalesce(rotation.c.arrived_at, now) - rotation.c.due
    counted = c.execute(
        select(
            func.count(),
            _sum(in_time),
            _sum(given_up),
            func.max(case((given_up, 0.0), else_=delay)),
        ).where(rotation.c.due >= since, rotation.c.due <= now)
    ).one()
    due, punctual, abandoned = int(counted[0]), int(counted[1] or 0), int(counted[2] or 0)
    still_open = c.execute(select(func.count()).select_from(rotation).where(_OPEN)).scalar_one()
    past = (
        select(secret.c.kind, func.count())
        .join(vps, vps.c.id == secret.c.vps)
        .where(secret.c.due <= now, secret.c.state == "current", vps.c.wanted == "present")
        .group_by(secret.c.kind)
    )
    left = {str(kind): int(count) for kind, count in c.execute(past)}
    external = left.pop("external", 0)
    return Figures(
        due=due,
        in_time=punctual,
        late=due - punctual - abandoned,
        worst_s=max(0.0, float(counted[3] or 0.0)),
        open=int(still_open),
        given_up=abandoned,
        unattended=sum(left.values()),
        external=external,
    )


def _rows(c: Connection, query: Any) -> tuple[RotationRow, ...]:
    return tuple(replace(row, names=tuple(row.names)) for row in each(RotationRow, c.execute(query)))


def _row(c: Connection, query: Any) -> RotationRow | None:
    found = _rows(c, query)
    return found[0] if found else None


def _sum(condition: Any) -> Any:
    return func.sum(case((condition, 1), else_=0))


def _open_of_group(c: Connection, vps_id: str, grp: str) -> RotationRow | None:
    query = select(rotation).where(rotation.c.vps == vps_id, rotation.c.grp == grp, _OPEN)
    return _row(c, query.with_for_update())


def _is_due(c: Connection, now: float, vps_id: str, grp: str) -> bool:
    query = select(secret.c.name).where(
        secret.c.vps == vps_id, secret.c.grp == grp, secret.c.state == "current", secret.c.work_at <= now
    )
    return c.execute(query.limit(1)).first() is not None


def _occupy(c: Connection, vps_id: str, grp: str) -> None:
    """Let the secrets of a group be found by their dates no more while a rotation is open."""
    c.execute(
        update(secret)
        .where(secret.c.vps == vps_id, secret.c.grp == grp, secret.c.state == "current")
        .values(state="rotating")
    )


def _end(c: Connection, at: float, row: RotationRow, state: str, error: str) -> None:
    """End a rotation. Its secrets are looked at by their dates again."""
    arrived = {"arrived_at": at} if state == "arrived" else {}
    c.execute(
        update(rotation)
        .where(rotation.c.id == row.id)
        .values(state=state, ended_at=at, last_error=error if state == "given-up" else "", **arrived)
    )
    c.execute(
        update(secret)
        .where(secret.c.vps == row.vps, secret.c.grp == row.grp, secret.c.state == "rotating")
        .values(state="current")
    )
    detail = {"error": error} if state == "given-up" else {"attempts": row.attempts}
    history.note(c, at, "worker", f"rotation.{state}", vps=row.vps, rotation=row.id, detail=detail)
