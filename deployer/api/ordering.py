"""What callers order, each in one transaction: the wish, the operation, and in the history who asked.

Functions of a connection that may write. Nothing here reaches Barbican: the worker finds what is wanted in
the database, and is woken besides.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from common.errors import ConfigurationError
from common.untrusted_json import printable
from deployer.api import fleet
from deployer.api.problems import (
    CONFLICT,
    KEY_USED,
    NO_FORMER,
    NO_SUCH_BLUEPRINT,
    NO_SUCH_SECRET,
    NO_SUCH_VPS,
    NOT_CONFIRMED,
    NOT_EXTERNAL,
    NOTHING_TO_ROTATE,
    Problem,
    RequestError,
)
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.core.model import EXTERNAL
from deployer.core.options import PostgresqlOptions
from deployer.database import blueprints, operations, rotations, secrets, vpses
from deployer.database.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from deployer.database.operations import Operation
    from deployer.database.secrets import SecretRow
    from deployer.database.vpses import VpsRow
    from deployer.database.words import Detail

    _Groups: TypeAlias = Mapping[str, Sequence[str]]

MANY: Final = "rotate-many"
GIVE: Final = "give-value"
CLAIM: Final = "claim"
JOINING: Final = "joining"
"""The state of a VPS that has not claimed its user (deployer/worker/joining.py)."""
MOST_REASON: Final = 200
KEPT: Final = (
    "the VPS keeps its identity: whoever has its credential reads the new values, too. Where the machine was "
    "in other hands, shut it out: vps-secrets-deploy emergency {vps} --new-identity --reason WHY"
)
ANEW: Final = (
    "the VPS is shut out until it has another identity. Make its machine anew, with the user data of: "
    "vps-secrets-deploy vps claim {vps} --again --output FILE"
)
ANEW_OF_A_POOL: Final = (
    "the VPS is shut out for good, since its user is of a pool. Add another one, then: "
    "vps-secrets-deploy vps retire {vps} --reason WHY --confirm {vps}"
)
GIVEN: Final = "a person gives it: end it where it comes from, then: vps-secrets-deploy set {vps} {name}"
NEVER: Final = (
    "never rotates, old data need it: decide about the data, then: "
    "vps-secrets-deploy rotate {vps} {name} --reason WHY"
)
WANTED: Final = {"revoke": "revoked", "restore-access": "present", "retire": "retired"}


@dataclass(frozen=True, slots=True)
class Order:
    """What one caller asks for. ``key`` is the Idempotency-Key, ``vps_id`` empty where it is of many."""

    actor: str
    kind: str
    vps_id: str
    body: Mapping[str, Any]
    key: str = ""

    @property
    def reason(self) -> str:
        """Why, in one printable line."""
        return printable(str(self.body.get("reason", "")), MOST_REASON)

    @property
    def digest(self) -> str:
        """What tells this request from another one under the same key; of no value that was given."""
        said = json.dumps([self.kind, self.vps_id, self.body], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(said.encode()).hexdigest()


def wish(c: Connection, now: float, order: Order, sealing: str) -> Operation | None:
    """Wish a VPS; None where it is wished so already and the caller named no key to ask for it again.

    ``sealing`` is the configuration's word for a new one whose caller says nothing of it.
    """
    body = order.body
    labels = {str(name): str(value) for name, value in body.get("labels", {}).items()}
    wave = int(body.get("wave", 0))
    if blueprints.get(c, body["blueprint"]) is None:
        raise RequestError(NO_SUCH_BLUEPRINT, "apply it first: vps-secrets-deploy blueprint apply")
    before = vpses.get(c, order.vps_id)
    if before is None or before.blueprint != body["blueprint"]:
        _refuse_shared_roles(c, order)
    sealing = str(body.get("sealing", before.sealing if before else sealing))
    wanted = (body["blueprint"], labels, wave, sealing, "present")
    has = before and (before.blueprint, before.labels, before.wave, before.sealing, before.wanted)
    if not order.key and has == wanted:
        return None
    operation = _begin(c, now, order, total=1)
    if operation.created_at == now:
        _or_conflict(
            lambda: vpses.wish(
                c,
                now,
                order.vps_id,
                body["blueprint"],
                labels=labels,
                wave=wave,
                actor=order.actor,
                sealing=sealing,
            )
        )
    return operation


def change(c: Connection, now: float, order: Order) -> Operation:
    """Revoke a VPS, give its access back, or retire it."""
    row = _vps(c, order.vps_id)
    if order.kind == "retire" and order.body["confirm"] != order.vps_id:
        raise RequestError(NOT_CONFIRMED, "confirm must be the id in the path")
    operation = _begin(c, now, order, total=1)
    if operation.created_at == now:
        wanted = WANTED[order.kind]
        _or_conflict(lambda: vpses.order(c, now, order.vps_id, wanted, order.actor, note=order.reason))
        vpses.wake(c, row.id, vpses.EMERGENCY if wanted == "revoked" else vpses.ORDERED)
    return operation


def rotate(c: Connection, now: float, order: Order) -> Operation:
    """Rotate secrets of one VPS."""
    rows = secrets.of(c, _vps(c, order.vps_id).id)
    groups = _groups(rows, order.body.get("names"))
    if not groups:
        raise RequestError(NOTHING_TO_ROTATE, "those that never rotate by themselves must be named")
    operation = _begin(c, now, order, total=len(groups), detail=_by_hand(rows, groups))
    if operation.created_at == now:
        return _rotate(c, now, order, operation, groups, reason="ordered")
    return operation


def emergency(c: Connection, now: float, order: Order, *, pool: bool) -> Operation:
    """Rotate all secrets of a compromised VPS; with another identity it is shut out until it has that.

    ``pool``: its user is one of a pool, of which it gets no other one.
    """
    row = _vps(c, order.vps_id)
    rows = secrets.of(c, row.id)
    groups = _groups(rows, None)
    anew = order.body.get("identity") == "new"
    said = _by_hand(rows, groups)
    identity = (ANEW_OF_A_POOL if pool else ANEW) if anew else KEPT
    left = [each for each in rows if each.name in said["byHand"]]
    said["toDo"] = [
        identity.format(vps=row.id),
        *(
            f"{each.name}: " + (GIVEN if each.kind == EXTERNAL else NEVER).format(vps=row.id, name=each.name)
            for each in sorted(left, key=lambda each: each.name)
        ),
    ]
    operation = _begin(c, now, order, total=max(1, len(groups)), detail=said)
    if operation.created_at != now:
        return operation
    if anew:
        rotations.give_up_emergencies(c, now, row.id)
        _or_conflict(lambda: vpses.order(c, now, row.id, "revoked", order.actor, note=order.reason))
    return _rotate(c, now, order, operation, groups, reason="compromised", urgent=vpses.EMERGENCY)


def roll_back(c: Connection, now: float, order: Order) -> Operation:
    """List former versions again."""
    row = _vps(c, order.vps_id)
    rows = {each.name: each for each in secrets.of(c, row.id)}
    groups = _groups(tuple(rows.values()), order.body["names"])
    if not groups:
        raise RequestError(NOTHING_TO_ROTATE, "a value that a person gives is given again instead")
    former: dict[str, str] = {}
    for version in sorted(secrets.versions_of(c, row.id), key=lambda each: each.created):
        current = rows.get(version.name)
        if version.gone_at is None and version.rotation and current and version.uuid != current.current:
            former[version.name] = version.uuid
    wanted = {name for names in groups.values() for name in names}
    if not wanted <= former.keys():
        raise RequestError(NO_FORMER, "it is kept for rollback_for of the blueprint, and was deleted since")
    operation = _begin(c, now, order, total=len(groups))
    if operation.created_at == now:
        return _rotate(c, now, order, operation, groups, reason="rollback", targets=former)
    return operation


def rotate_many(c: Connection, now: float, order: Order) -> Operation:
    """Begin to rotate secrets of many VPSs; deployer/api/settling.py goes on with it, wave by wave."""
    body = order.body
    if not body.get("labels") and body.get("all") is not True:
        raise RequestError(NOT_CONFIRMED, "give labels, or all = true")
    detail: dict[str, Detail] = {
        "names": list(body.get("names", [])),
        "labels": dict(body.get("labels", {})),
        "waveInterval": float(body.get("waveInterval", 0)),
        "through": -1,
    }
    operation = _begin(c, now, order, detail=detail)
    if operation.created_at == now:
        _refuse_a_slip(c, detail)
    return operation


def _refuse_a_slip(c: Connection, detail: Mapping[str, Any]) -> None:
    """Refuse an order for many that is for none: a label or a name is mistyped, and nothing would happen."""
    if not fleet.meant(c, detail["labels"]):
        raise RequestError(NOTHING_TO_ROTATE, "no VPS that is wanted has all of these labels")
    if detail["names"] and not fleet.is_known(c, detail["names"]):
        raise RequestError(NOTHING_TO_ROTATE, "no VPS has a secret of any of these names")


def one_of_many(c: Connection, now: float, operation: Operation, vps_id: str) -> None:
    """Rotate what an order for many asks of one VPS; to do it again is to do it once."""
    detail = operation.detail
    rows = secrets.of(c, vps_id)
    there = {row.name for row in rows}
    named = [name for name in detail["names"] if name in there]
    if detail["names"] and not named:
        return
    order = Order(operation.asked_by, MANY, vps_id, {"reason": detail.get("reason", "")})
    _want(c, now, order, operation, _groups(rows, named or None))
    vpses.wake(c, vps_id, vpses.ORDERED)


def claim(c: Connection, now: float, order: Order, *, anew: bool) -> tuple[Operation, VpsRow]:
    """Write that the identity of a VPS is handed out; the registrar does it, once.

    ``anew``: it is another one, and the former ends. With it a VPS that was shut out gets its access back.
    """
    row = _vps(c, order.vps_id)
    if row.wanted == "retired" or (row.wanted == "revoked" and not anew):
        raise RequestError(CONFLICT, "this VPS has no access")
    if row.sealing == "required" and not row.container:
        raise RequestError(CONFLICT, "its container is not there yet, which the machine needs: try again")
    return _begin(c, now, order, total=1), row


def give(c: Connection, now: float, order: Order, name: str) -> tuple[Operation, bool]:
    """Write that somebody gives a value: which, not what.

    Return whether that is new: under the same key a value is handed on once.
    """
    row = _vps(c, order.vps_id)
    rows = {each.name: each for each in secrets.of(c, row.id)}
    if rows and name not in rows:
        raise RequestError(NO_SUCH_SECRET, "the blueprint of this VPS has other names")
    if rows and rows[name].kind != EXTERNAL:
        raise RequestError(NOT_EXTERNAL, "rotate it instead")
    operation = _begin(c, now, order, total=1, detail={"names": [name]})
    return operation, operation.created_at == now


def rotation_id(operation_id: str, vps_id: str, grp: str) -> str:
    """Return the id of the rotation that an operation wants: the same, however often it is carried out."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:vps-secrets:operation:{operation_id}/{vps_id}/{grp}"))


def _refuse_shared_roles(c: Connection, order: Order) -> None:
    """Refuse a second VPS of a blueprint whose database roles are the same for all its VPSs."""
    name = order.body["blueprint"]
    kept = blueprints.get(c, name, lock=True)
    try:
        parsed = blueprint.parse((kept.text if kept else "").encode(), Path("blueprint.toml"), zone)
    except ConfigurationError:  # the worker says so; it makes nothing by it
        return
    shared = [
        spec.name
        for spec in parsed.secrets.values()
        if isinstance(spec.options, PostgresqlOptions) and spec.options.is_shared
    ]
    others = [
        vps_id for vps_id in vpses.of_blueprint(c, order.body["blueprint"], 2) if vps_id != order.vps_id
    ]
    if shared and others:
        raise RequestError(
            CONFLICT,
            f"{', '.join(shared)}: the database's roles are those of {others[0]}, and two VPSs would change "
            "each other's password: write {vps} into both names of roles, and apply the blueprint",
        )


def _vps(c: Connection, vps_id: str) -> VpsRow:
    row = vpses.get(c, vps_id)
    if row is None:
        raise RequestError(NO_SUCH_VPS, "GET /v1/vps, or vps-secrets-deploy vps list, lists them")
    return row


def _begin(
    c: Connection,
    now: float,
    order: Order,
    *,
    total: int = 0,
    detail: Mapping[str, Detail] | None = None,
) -> Operation:
    said: dict[str, Detail] = {**(detail or {})}
    if order.reason:
        said["reason"] = order.reason
    try:
        return operations.begin(
            c,
            now,
            order.kind,
            order.vps_id or "*",
            order.actor,
            key=order.key,
            digest=order.digest,
            total=total,
            detail=said,
        )
    except ConflictError:
        pass
    raise RequestError(KEY_USED, "use a new key for a new order")


def _or_conflict(act: Any) -> None:
    problem: Problem | None = None
    words = ""
    try:
        act()
    except ConflictError as error:
        problem, words = CONFLICT, str(error)
    if problem is not None:
        raise RequestError(problem, words)


def _rotate(
    c: Connection,
    now: float,
    order: Order,
    operation: Operation,
    groups: _Groups,
    *,
    reason: str,
    urgent: int = vpses.ORDERED,
    targets: Mapping[str, str] | None = None,
) -> Operation:
    """Want the rotations of an operation, wake the worker, and keep what the operation waits for."""
    wanted = _want(c, now, order, operation, groups, reason=reason, targets=targets)
    vpses.wake(c, order.vps_id, urgent)
    operations.progress(c, now, operation.id, 0, detail={**operation.detail, "rotations": wanted})
    return operations.get(c, operation.id) or operation


def _want(
    c: Connection,
    now: float,
    order: Order,
    operation: Operation,
    groups: _Groups,
    *,
    reason: str = "ordered",
    targets: Mapping[str, str] | None = None,
) -> list[str]:
    """Want a rotation of each group; return which. One that was under way already may be among them."""
    former = targets or {}
    return [
        rotations.want(
            c,
            now,
            order.vps_id,
            grp,
            sorted(names),
            reason=reason,
            asked_by=order.actor,
            rotation_id=rotation_id(operation.id, order.vps_id, grp),
            note=order.reason,
            targets={name: former[name] for name in names if name in former},
        )
        for grp, names in groups.items()
    ]


def _groups(rows: Sequence[SecretRow], names: Sequence[str] | None) -> _Groups:
    """Return the groups that contain these names, each with all that the deployer makes of it.

    Without names: those that rotate by themselves. A key that old data depends on must be named.
    """
    there = {row.name: row for row in rows}
    if not rows:
        raise RequestError(
            NOTHING_TO_ROTATE, "nothing was made for this VPS yet: its page says what it waits for"
        )
    if names is not None and not there.keys() >= set(names):
        raise RequestError(NO_SUCH_SECRET, "the blueprint of this VPS has other names")
    chosen = (
        {there[name].grp for name in names}
        if names is not None
        else {row.grp for row in rows if row.due is not None}
    )
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.grp in chosen and row.kind != EXTERNAL:
            groups.setdefault(row.grp, []).append(row.name)
    return groups


def _by_hand(rows: Sequence[SecretRow], groups: _Groups) -> dict[str, Any]:
    """Say which names are rotated, and which a person must see to."""
    made = sorted(name for names in groups.values() for name in names)
    return {"names": made, "byHand": sorted({row.name for row in rows} - set(made))}
