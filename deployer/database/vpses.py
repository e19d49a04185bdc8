"""The VPSs: what each is to be, what was seen of it, and whose turn it is to be looked at.

A worker takes a VPS by a lease, and looks at it while it has that. One owner's name belongs to one task that
works on one VPS at a time; a lease that ran out is another's for the taking, and its former owner finds out
at its next write. So every transaction that writes about a VPS begins with :func:`hold`.

Whoever writes locks the VPS first, then what belongs to it; whoever writes about several, in the order of
their ids. Then no two transactions wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from sqlalchemy import Integer, bindparam, case, delete, func, select, update

from common.untrusted_json import printable
from deployer.database import history
from deployer.database.errors import ConflictError, LeaseLostError, NotFoundError, RefusedValueError
from deployer.database.schema import SEALING, WANTED, blueprint, vps
from deployer.database.statements import each, insert_unless_there, one
from deployer.database.words import SENTENCE, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from deployer.database.words import Detail

WOKEN: Final = 1
"""Something changed."""
ORDERED: Final = 2
"""A person waits."""
EMERGENCY: Final = 3


@dataclass(frozen=True, slots=True)
class VpsRow:
    """One VPS. ``granted_to``: the user whom its ACLs name, "" for nobody, None where it is not known."""

    id: str
    blueprint: str
    labels: Mapping[str, str]
    wave: int
    wanted: str
    user_id: str
    container: str
    granted_to: str | None
    state: str
    created_at: float
    next_look: float
    urgent: int
    lease_owner: str
    lease_until: float
    failures: int
    last_error: str
    served: str
    served_at: float | None
    looked_at: float | None
    sealing: str = "off"


class Sight(TypedDict, total=False):
    """What a look at a VPS may find; the fields are those of :class:`VpsRow`."""

    user_id: str
    container: str
    granted_to: str | None
    state: str
    served: str
    served_at: float | None
    looked_at: float | None


def wish(
    c: Connection,
    now: float,
    vps_id: str,
    blueprint_name: str,
    *,
    labels: Mapping[str, str],
    actor: str,
    wave: int = 0,
    sealing: str = "off",
) -> VpsRow:
    """Want a VPS with this blueprint. Nothing is written where it is wanted so already.

    ``sealing``: ``required`` makes nothing for it before its key is there, and all for that; or ``off``.

    Raises:
        NotFoundError: nobody applied such a blueprint.
        ConflictError: the VPS is being retired.
        RefusedValueError: a label has a mark that it may not have, or sealing is another word.
    """
    if sealing not in SEALING:
        raise RefusedValueError("sealing is required or off")
    known = select(blueprint.c.name).where(blueprint.c.name == blueprint_name)
    if c.execute(known).first() is None:
        raise NotFoundError("no blueprint of this name has been applied: vps-secrets-deploy blueprint apply")
    if any(mark in word for pair in labels.items() for word in pair for mark in '"\\'):
        raise RefusedValueError("a label has neither quotation marks nor backslashes")
    wanted: dict[str, Detail] = {"blueprint": blueprint_name, "labels": dict(labels), "wave": wave}
    wanted["sealing"] = sealing
    fresh = {"id": vps_id, **wanted, "created_at": now, "next_look": -WOKEN, "urgent": WOKEN}
    if insert_unless_there(c, vps, fresh):
        history.note(c, now, actor, "vps.wish", vps=vps_id, detail=wanted)
        return _there(c, vps_id)
    row = _there(c, vps_id, lock=True)
    if row.wanted == "retired":
        raise ConflictError("this VPS is being retired; its id is free when that is done")
    if {name: getattr(row, name) for name in wanted} == wanted:
        return row
    c.execute(update(vps).where(vps.c.id == vps_id).values(**wanted))
    wake(c, vps_id, ORDERED)
    history.note(c, now, actor, "vps.wish", vps=vps_id, detail=wanted)
    return _there(c, vps_id)


def order(c: Connection, now: float, vps_id: str, wanted: str, actor: str, *, note: str = "") -> VpsRow:
    """Say what a VPS is to be: ``present``, ``revoked`` or ``retired``, and wake the worker for it.

    Raises:
        NotFoundError: there is no such VPS.
        ConflictError: it is being retired, which has no way back.
    """
    if wanted not in WANTED:
        raise RefusedValueError("a VPS is wanted present, revoked or retired")
    row = _there(c, vps_id, lock=True)
    if row.wanted == wanted:
        return row
    if row.wanted == "retired":
        raise ConflictError("this VPS is being retired, which has no way back")
    c.execute(update(vps).where(vps.c.id == vps_id).values(wanted=wanted))
    wake(c, vps_id, EMERGENCY if wanted == "revoked" else ORDERED)
    history.note(c, now, actor, f"vps.{wanted}", vps=vps_id, detail={"note": note, "before": row.wanted})
    return _there(c, vps_id)


def get(c: Connection, vps_id: str) -> VpsRow | None:
    """Return a VPS, or None."""
    return one(VpsRow, c.execute(select(vps).where(vps.c.id == vps_id)).first())


def page(
    c: Connection,
    after: str = "",
    limit: int = 100,
    state: str | None = None,
    label: tuple[str, str] | None = None,
    *,
    failing: bool = False,
) -> tuple[VpsRow, ...]:
    """Return VPSs in the order of their ids, from the one after ``after`` on.

    ``state`` as the worker wrote it, ``label`` a name with its value; ``failing``: the last look failed.
    """
    query = select(vps).where(vps.c.id > after).order_by(vps.c.id).limit(limit)
    if state is not None:
        query = query.where(vps.c.state == state)
    if failing:
        query = query.where(vps.c.failures > 0)
    if label is None:
        return each(VpsRow, c.execute(query))
    # Labels are one JSON text with its keys in order: each pair stands in it as it would stand alone.
    name, value = label
    place = func.instr if c.dialect.name == "sqlite" else func.strpos
    has = place(vps.c.labels, encode({name: value})[1:-1], type_=Integer) > 0
    return each(VpsRow, c.execute(query.where(has)))


def of_blueprint(c: Connection, name: str, limit: int) -> tuple[str, ...]:
    """Return the ids of some VPSs of a blueprint."""
    query = select(vps.c.id).where(vps.c.blueprint == name).order_by(vps.c.id).limit(limit)
    return tuple(str(vps_id) for vps_id in c.execute(query).scalars())


def counts(c: Connection) -> Mapping[str, int]:
    """Return how many VPSs are in each state."""
    found = c.execute(select(vps.c.state, func.count()).group_by(vps.c.state))
    return {str(state): int(count) for state, count in found}


def claim_due(c: Connection, now: float, owner: str, lease_s: float) -> VpsRow | None:
    """Take the VPS whose turn it is, for so long; None where none is due.

    What was woken comes first, the most urgent before, then what waits longest. The row says how urgent it
    was; to be woken again meanwhile is not lost: see :func:`release`.
    """
    taken = claim_some_due(c, now, owner, lease_s, 1)
    return taken[0] if taken else None


def claim_some_due(c: Connection, now: float, owner: str, lease_s: float, limit: int) -> tuple[VpsRow, ...]:
    """Take as many as ``limit`` at once, for a task that looks at them one after the other."""
    due = (
        select(vps)
        .where(vps.c.next_look <= now, vps.c.lease_until <= now)
        .order_by(vps.c.next_look)
        .limit(limit)
        .with_for_update(skip_locked=True)  # of PostgreSQL; a writer of SQLite is alone
    )
    taken = each(VpsRow, c.execute(due))
    if taken:
        until = {"lease_owner": owner, "lease_until": now + lease_s, "urgent": 0}
        c.execute(update(vps).where(vps.c.id.in_([row.id for row in taken])).values(**until))
    return tuple(replace(row, lease_owner=owner, lease_until=now + lease_s) for row in taken)


def until_due(c: Connection, now: float) -> float | None:
    """Return in how many seconds a VPS can be taken: 0 for one that became due just now; None for no VPS.

    One that somebody looks at can be when the lease runs out.
    """
    later = select(func.min(vps.c.next_look)).where(vps.c.next_look > now)
    due = select(func.min(vps.c.lease_until)).where(vps.c.next_look <= now)
    moments = [at for query in (later, due) if (at := c.execute(query).scalar_one()) is not None]
    return max(0.0, min(moments) - now) if moments else None


def claim(c: Connection, now: float, vps_id: str, owner: str, lease_s: float) -> VpsRow | None:
    """Take this VPS, due or not, for so long; None where another has it, or there is none."""
    free = select(vps).where(vps.c.id == vps_id, vps.c.lease_until <= now)
    row = one(VpsRow, c.execute(free.with_for_update(skip_locked=True)).first())
    if row is not None:
        until = {"lease_owner": owner, "lease_until": now + lease_s, "urgent": 0}
        c.execute(update(vps).where(vps.c.id == vps_id).values(**until))
    return row and replace(row, lease_owner=owner, lease_until=now + lease_s)


def hold(c: Connection, now: float, vps_id: str, owner: str) -> VpsRow:
    """Make sure that ``owner`` has the lease until this transaction ends; return the VPS as it is now.

    Raises:
        LeaseLostError: it ran out. Stop working on this VPS: somebody else does.
    """
    found = c.execute(select(vps).where(vps.c.id == vps_id).with_for_update()).first()
    row = one(VpsRow, found)
    if row is None or row.lease_owner != owner or row.lease_until <= now:
        raise LeaseLostError(f"the lease on {vps_id} ran out: another worker goes on with it")
    return row


def keep_lease(c: Connection, now: float, vps_id: str, owner: str, lease_s: float) -> None:
    """Have the lease for longer.

    Raises:
        LeaseLostError: as :func:`hold`.
    """
    _held(
        c.execute(update(vps).where(*_is_held(now, vps_id, owner)).values(lease_until=now + lease_s)), vps_id
    )


def release(
    c: Connection,
    now: float,
    vps_id: str,
    owner: str,
    next_look: float,
    *,
    failures: int = 0,
    error: str = "",
) -> None:
    """Give the lease back, and say when to look again: at once, where it was woken meanwhile.

    Raises:
        LeaseLostError: as :func:`hold`.
    """
    changes = {"failures": failures, "last_error": printable(error, SENTENCE), **_given_back(next_look)}
    _held(c.execute(update(vps).where(*_is_held(now, vps_id, owner)).values(**changes)), vps_id)


def release_many(c: Connection, now: float, owner: str, next_looks: Mapping[str, float]) -> None:
    """Give back the leases on VPSs that need nothing; one that ran out is left alone."""
    given_back = (
        update(vps)
        .where(*_is_held(now, bindparam("of_vps"), owner))
        .values(failures=0, last_error="", **_given_back(bindparam("look_at")))
    )
    if next_looks:
        looks = [{"of_vps": vps_id, "look_at": look_at} for vps_id, look_at in sorted(next_looks.items())]
        c.execute(given_back, looks)


def give_back(c: Connection, owners: str) -> int:
    """Give back every lease whose owner's name begins so, of tasks that are no more; return how many."""
    theirs = vps.c.lease_owner.startswith(owners, autoescape=True)
    return int(c.execute(update(vps).where(theirs).values(lease_owner="", lease_until=0.0)).rowcount)


def wake(c: Connection, vps_id: str, urgent: int = WOKEN) -> None:
    """Have a VPS looked at as soon as there is a worker: it comes before all that is less urgent.

    No effect where there is no such VPS. A worker that has it looks again when it has finished.
    """
    more = vps.c.urgent < urgent
    c.execute(update(vps).where(vps.c.id == vps_id, more).values(urgent=urgent, next_look=float(-urgent)))


def press(c: Connection, now: float, vps_ids: Sequence[str]) -> None:
    """Have VPSs whose next look has come looked at before all else."""
    waits = vps.c.next_look > 0, vps.c.next_look <= now, vps.c.lease_until <= now
    for vps_id in vps_ids:
        c.execute(
            update(vps)
            .where(vps.c.id == vps_id, *waits)
            .values(urgent=EMERGENCY, next_look=float(-EMERGENCY))
        )


def unstick(c: Connection, now: float, longest_s: float) -> None:
    """Bring back dates that no right clock has written: more than ``longest_s`` from now."""
    c.execute(update(vps).where(vps.c.next_look > now + longest_s).values(next_look=now))
    c.execute(update(vps).where(vps.c.lease_until > now + longest_s).values(lease_until=now))


def seen(c: Connection, now: float, vps_id: str, owner: str, **found: Unpack[Sight]) -> None:
    """Write what a look found, where it is new.

    Raises:
        LeaseLostError: as :func:`hold`.
    """
    row = hold(c, now, vps_id, owner)
    news = {name: value for name, value in found.items() if getattr(row, name) != value}
    if news:
        c.execute(update(vps).where(vps.c.id == vps_id).values(**news))


def know(c: Connection, vps_id: str, user_id: str, container: str) -> None:
    """Fill in whose VPS it is and which container it has, where the database does not know.

    Nothing that is known is replaced.
    """
    for column, value in ((vps.c.user_id, user_id), (vps.c.container, container)):
        unknown = vps.c.id == vps_id, column == ""
        c.execute(update(vps).where(*unknown).values({column.name: value}))


def claimed_again(c: Connection, now: float, vps_id: str, owner: str, *, user_id: str, state: str) -> None:
    """Write that a VPS is to join again, as another user, and have it looked at before all that can wait.

    The lease is given back. ``state`` is one in which the worker asks whether the user was claimed.

    Raises:
        LeaseLostError: as :func:`hold`.
    """
    seen(c, now, vps_id, owner, user_id=user_id, state=state)
    release(c, now, vps_id, owner, now)
    wake(c, vps_id, EMERGENCY)  # the former user's tokens read until its ACLs name him no more


def forget(c: Connection, now: float, vps_id: str, owner: str) -> None:
    """Delete what is known of a retired VPS, once nothing of it exists. Its history stays.

    Raises:
        LeaseLostError: as :func:`hold`.
        ConflictError: it is not being retired.
    """
    if hold(c, now, vps_id, owner).wanted != "retired":
        raise ConflictError("only a retired VPS is forgotten")
    c.execute(delete(vps).where(vps.c.id == vps_id))
    history.note(c, now, "worker", "vps.gone", vps=vps_id)


def _is_held(now: float, vps_id: Any, owner: str) -> tuple[Any, ...]:
    return vps.c.id == vps_id, vps.c.lease_owner == owner, vps.c.lease_until > now


def _held(result: Any, vps_id: str) -> None:
    """Make sure that a change found its VPS held."""
    if not result.rowcount:
        raise LeaseLostError(f"the lease on {vps_id} ran out: another worker goes on with it")


def _given_back(next_look: Any) -> dict[str, Any]:
    woken = case((vps.c.urgent > 0, -vps.c.urgent), else_=next_look)
    return {"lease_owner": "", "lease_until": 0.0, "next_look": woken}


def _there(c: Connection, vps_id: str, *, lock: bool = False) -> VpsRow:
    query = select(vps).where(vps.c.id == vps_id)
    row = one(VpsRow, c.execute(query.with_for_update() if lock else query).first())
    if row is None:
        raise NotFoundError("there is no VPS of this id")
    return row
