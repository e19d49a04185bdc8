"""How far each operation is: read from what has become of its VPS, not remembered by whoever works on it.

So nobody has to finish an operation, it may be looked at any number of times, and one whose caller, worker or
API died goes on like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from deployer.api import fleet, ordering
from deployer.core.model import EXTERNAL
from deployer.database import history, operations, rotations, secrets, vpses
from deployer.database.schema import rotation

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.database.operations import Operation
    from deployer.database.words import Detail

MANY: Final = ordering.MANY
A_CHUNK: Final = 100
"""VPSs that one transaction orders a rotation for, so that others can write between two."""
GIVEN_UP: Final = "given-up"
OF_ACCOUNTS: Final = frozenset({"revoke", "restore-access", "retire"})
TRIED: Final = 2
"""So often a user could not be disabled before that is told: a registrar that is started again is no news."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far an operation is; ``error`` says why it can't be done."""

    done: int
    ended: bool = False
    error: str = ""


CLAIM_S: Final = 60.0
"""An identity is handed out within less; whoever asks for one is told then, and writes it down himself."""
BEFORE_ITS_CLAIM: Final = frozenset({"new", "provisioning", "joining"})
BEFORE_ITS_KEY: Final = frozenset({"joining", "waiting-for-key"})
"""States of a VPS (deployer/worker/recording.py) that has all it can have: it may be claimed and booted."""


def judge(c: Connection, operation: Operation) -> Verdict | None:
    """Return how far an unfinished operation is, or None where that is known already."""
    if operation.kind == MANY:
        verdict = _of_many(c, operation)
    elif operation.kind in {"rotate", "rollback", "emergency"}:
        verdict = _of_rotations(c, operation)
    elif _is_so(c, operation):
        verdict = Verdict(1, ended=True)
    else:
        verdict = Verdict(0, ended=True, error=half) if (half := _half(c, operation)) else Verdict(0)
    return verdict if verdict.ended or verdict.done != operation.done else None


def write_down(c: Connection, now: float, operation: Operation, verdict: Verdict) -> None:
    """Keep a verdict."""
    if verdict.error:
        operations.fail(c, now, operation.id, verdict.error)
    elif verdict.ended:
        left = _left_to_a_person(c, operation)
        operations.finish(c, now, operation.id, {**operation.detail, "byHand": left} if left else None)
    else:
        operations.progress(c, now, operation.id, verdict.done)


def _left_to_a_person(c: Connection, operation: Operation) -> list[Detail]:
    """Return what the worker could not do about a user of a pool."""
    if operation.kind not in OF_ACCOUNTS:
        return []
    return list(history.left_to_a_person(c, operation.created_at, operation.target))


def spread(c: Connection, now: float, operation: Operation) -> bool:
    """Order the next rotations of an order for many, for VPSs whose wave has come; return whether more wait.

    ``through`` is the wave of the last VPS that it was ordered for, ``after`` that VPS.
    """
    operation = operations.get(c, operation.id) or operation
    detail = dict(operation.detail)
    if "orderedAt" in detail or operation.state not in {"wanted", "running"}:
        return False
    wanted = _meant(c, operation)
    first = min(wanted.values(), default=0)
    reached = [
        (wave, vps)
        for vps, wave in wanted.items()
        if now >= operation.created_at + (wave - first) * float(detail["waveInterval"])
    ]
    done = (int(detail["through"]), str(detail.get("after", "")))
    ahead = sorted(each for each in reached if each > done)
    for wave, vps in ahead[:A_CHUNK]:
        ordering.one_of_many(c, now, operation, vps)
        detail |= {"through": wave, "after": vps}
    if len(ahead) <= A_CHUNK and len(reached) == len(wanted):
        detail["orderedAt"] = now
    if detail != dict(operation.detail):
        operations.progress(c, now, operation.id, operation.done, total=len(wanted), detail=detail)
    return len(ahead) > A_CHUNK


def _is_so(c: Connection, operation: Operation) -> bool:
    """Tell whether a VPS has become what an operation wants."""
    row = vpses.get(c, operation.target)
    if operation.kind == "retire":
        return row is None
    if operation.kind == ordering.GIVE:
        names = operation.detail["names"]
        given = [each for each in secrets.of(c, operation.target) if each.name in names]
        return any((each.created or 0.0) >= operation.created_at for each in given)
    if operation.kind == ordering.CLAIM:  # handed out, and the database was away when that was to be written
        settled = row is not None and (row.looked_at or 0.0) > operation.created_at + CLAIM_S
        return settled and row is not None and row.state not in BEFORE_ITS_CLAIM
    if row is None or (row.looked_at or 0.0) < operation.created_at:
        return False
    if operation.kind == "revoke":
        return row.granted_to == "" and row.state == "revoked"  # both: ACLs and user
    granted = bool(row.user_id) and row.granted_to == row.user_id
    if operation.kind == "restore-access":
        return granted
    whole = all(each.current for each in secrets.of(c, row.id) if each.kind != EXTERNAL)
    if row.sealing == "required" and row.state in BEFORE_ITS_KEY:
        whole = True  # more can't be before the VPS has joined, for which the caller needs what there is
    return operation.kind == "provision" and granted and bool(row.container) and whole


def _half(c: Connection, operation: Operation) -> str:
    """Return why a VPS is shut out by half only, when that was tried more than once."""
    row = vpses.get(c, operation.target) if operation.kind == "revoke" else None
    if row is None or row.wanted != "revoked" or row.granted_to != "" or row.failures < TRIED:
        return ""
    return (
        f"its ACLs name nobody, so it reads nothing; its user is not disabled yet: {row.last_error}. "
        "The worker goes on trying"
    )


def _of_rotations(c: Connection, operation: Operation) -> Verdict:
    found = [rotations.get(c, each) for each in operation.detail.get("rotations", [])]
    states = [row.state for row in found if row is not None and row.ended_at is not None]
    if len(states) < len(found):
        return Verdict(len(states))
    if GIVEN_UP in states:
        count = f"{states.count(GIVEN_UP)} of {len(states)}"
        return Verdict(0, ended=True, error=f"{count} rotations were given up; the history says why")
    return Verdict(len(states), ended=True)


def _of_many(c: Connection, operation: Operation) -> Verdict:
    ordered_at = operation.detail.get("orderedAt")
    if ordered_at is None:
        return Verdict(operation.done)
    query = select(rotation.c.vps).where(rotation.c.ended_at.is_(None), rotation.c.wanted_at <= ordered_at)
    waiting = set(c.execute(query.distinct()).scalars())
    still = len(waiting & set(_meant(c, operation)))
    return Verdict(operation.total - still, ended=not still)


def _meant(c: Connection, operation: Operation) -> dict[str, int]:
    """Return the VPSs that an order for many is about, each with its wave."""
    return fleet.meant(c, dict(operation.detail["labels"]))
