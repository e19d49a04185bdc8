"""What the API does for each operation of the contract, by its operationId."""

from __future__ import annotations

import asyncio
import functools
import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import select

from deployer.api import backup_health, content, contract, fleet, ordering, upstream
from deployer.api.answering import Answer, TextAnswer
from deployer.api.fleet import Wanted
from deployer.api.ordering import Order
from deployer.api.problems import (
    CONFLICT,
    NO_SUCH_OPERATION,
    NO_SUCH_VPS,
    NOT_ALLOWED,
    UNAVAILABLE,
    RequestError,
)
from deployer.config.model import Role
from deployer.core.user_data import cloud_config
from deployer.database import (
    backups,
    blueprints,
    checks,
    history,
    operations,
    rotations,
    schema,
    secrets,
    vpses,
)
from deployer.database.errors import DatabaseError
from deployer.database.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from deployer.api.callers import Caller
    from deployer.api.content import Content
    from deployer.api.desk import Desk
    from deployer.api.metrics import Metrics
    from deployer.api.upstream import Identity
    from deployer.config.model import Backup, Config
    from deployer.database.vpses import VpsRow

WEEK_S: Final = 7 * 86400.0
MONTH_S: Final = 30 * 86400.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ORDERS: Final = {
    "claimVps": "claim",
    "rotateVps": "rotate",
    "rollbackVps": "rollback",
    "emergencyVps": "emergency",
    "revokeVps": "revoke",
    "restoreAccess": "restore-access",
    "retireVps": "retire",
    "rotateMany": ordering.MANY,
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request whose every part has been checked. ``receive`` reads the bytes of a given value."""

    caller: Caller
    path: Mapping[str, str]
    query: Mapping[str, Any]
    body: Mapping[str, Any]
    key: str
    receive: Callable[[], Awaitable[bytearray]]

    def order(self, kind: str) -> Order:
        """Return it as an order."""
        return Order(self.caller.name, kind, self.path.get("id", ""), self.body, self.key)


Handler: TypeAlias = "Callable[[Ask], Awaitable[Answer | TextAnswer]]"

CLAIM_LEASE_S: Final = 120.0
"""Longer than the registrar may take."""


class Handlers:
    """Every operation but the stream of events, which is no answer but a connection."""

    def __init__(self, desk: Desk, config: Config, metrics: Metrics, woken: Callable[[], None]) -> None:
        self._desk = desk
        self._config = config
        self._metrics = metrics
        self._woken = woken
        self._wakes: set[asyncio.Task[bool]] = set()
        self.by_id: Final[Mapping[str, Handler]] = {
            "listVps": self._list_vps,
            "showVps": self._show_vps,
            "wishVps": self._wish,
            "claimVps": self._claim,
            "giveValue": self._give,
            "rotateVps": self._ordering("rotateVps", ordering.rotate),
            "rollbackVps": self._ordering("rollbackVps", ordering.roll_back),
            "emergencyVps": self._ordering(
                "emergencyVps",
                functools.partial(ordering.emergency, pool=self._config.registrar.pool is not None),
            ),
            "revokeVps": self._ordering("revokeVps", ordering.change),
            "restoreAccess": self._ordering("restoreAccess", ordering.change),
            "retireVps": self._ordering("retireVps", ordering.change),
            "rotateMany": self._ordering("rotateMany", ordering.rotate_many),
            "listOperations": self._list_operations,
            "showOperation": self._show_operation,
            "listRotations": self._list_rotations,
            "listHistory": self._list_history,
            "listBackups": self._list_backups,
            "listChecks": self._list_checks,
            "listBlueprints": self._list_blueprints,
            "showFigures": self._show_figures,
            "listKeys": _list_keys,
            "showContract": _show_contract,
            "showMetrics": self._show_metrics,
        }

    async def _list_vps(self, ask: Ask) -> Answer:
        label = ask.query["label"]
        wanted = Wanted(ask.query["state"], tuple(label.split("=", 1)) if label else None)
        after, limit = ask.query["after"] or "", int(ask.query["limit"])
        page, more = await self._desk.read(lambda c, now: fleet.by_id(c, now, wanted, after, limit))
        return Answer({"items": [content.vps(each) for each in page], "next": more})

    async def _show_vps(self, ask: Ask) -> Answer:
        return Answer(await self._desk.read(lambda c, now: _detail(c, now, ask.path["id"])))

    async def _wish(self, ask: Ask) -> Answer:
        order = ask.order("provision")
        operation = await self._desk.see_through(
            self._desk.write(lambda c, now: ordering.wish(c, now, order, self._config.sealing))
        )
        if operation is None:
            return Answer(await self._desk.read(lambda c, now: _detail(c, now, order.vps_id)))
        return self._begun(operation)

    async def _claim(self, ask: Ask) -> Answer:
        if "true" in {ask.query["again"], ask.query["keep"]} and ask.caller.role < Role.OPERATOR:
            raise RequestError(
                NOT_ALLOWED, "again and keep are about an identity that is in use: an operator may"
            )
        return await self._desk.see_through(self._hand_out(ask.order(ordering.CLAIM), ask.query))

    async def _hand_out(self, order: Order, query: Mapping[str, Any]) -> Answer:
        """The registrar tells the password once: written down before, and ended after, whoever waits."""
        registrar = self._config.registrar.socket.path
        again, keep = query["again"] == "true", query["keep"] == "true"
        anew = again and self._config.registrar.pool is None  # of a pool it is told the same one again
        operation, row = await self._desk.write(lambda c, now: ordering.claim(c, now, order, anew=anew))
        try:
            if again or keep:
                how = "again=true" if again else f"keep={_user_of(row)}"
                identity = await self._claim_again(row, order.actor, registrar, how)
            else:
                identity = await upstream.claim(registrar, row.id)
        except RequestError as error:
            words = str(error)
            await self._desk.write(lambda c, now: operations.fail(c, now, operation.id, words))
            raise
        await self._finish(operation)
        keystone = self._config.keystone
        claim = {
            "vps": row.id,
            "userId": identity.user_id,
            "oneTimePassword": identity.one_time_password,
            "container": row.container or None,
            "sealing": row.sealing,
            "authUrl": keystone.auth_url if keystone else None,
        }
        more = {key: query[key] for key in ("user", "unit", "caFile") if query[key] is not None}
        if keystone and keystone.region:
            more["region"] = keystone.region
        user_data = cloud_config(claim | more)
        return Answer({"operation": operation.id, **claim, "userData": user_data})

    async def _claim_again(self, row: VpsRow, actor: str, registrar: Path, how: str) -> Identity:
        """Have an identity handed out to a VPS that has one; no worker looks at it meanwhile."""
        owner, vps_id = f"api-{uuid.uuid4()}", row.id
        held = await self._desk.write(lambda c, now: vpses.claim(c, now, vps_id, owner, CLAIM_LEASE_S))
        if held is None:
            raise RequestError(CONFLICT, "the worker is at work on this VPS: ask again", retry_after=2)
        try:
            identity = await upstream.claim(registrar, vps_id, how)
        except RequestError:
            await self._desk.write(lambda c, now: vpses.release(c, now, vps_id, owner, now))
            raise

        def claimed(c: Connection, now: float) -> None:
            if vpses.hold(c, now, vps_id, owner).wanted == row.wanted == "revoked":
                vpses.order(c, now, vps_id, "present", actor, note="it has another identity")
            vpses.claimed_again(c, now, vps_id, owner, user_id=identity.user_id, state=ordering.JOINING)

        try:
            await self._desk.write(claimed)
        except DatabaseError as error:
            words = f"{error} The registrar has made another identity; that is not written down: ask again"
            raise RequestError(UNAVAILABLE, words, retry_after=5) from None
        self._wake(vps_id)  # until its ACLs are changed, the former machine reads by the token that it has
        return identity

    async def _give(self, ask: Ask) -> Answer:
        order, name = ask.order(ordering.GIVE), ask.path["name"]
        # read before anything is written: half a value changes nothing
        value = await ask.receive()
        return await self._desk.see_through(self._hand_on(order, name, value))

    async def _hand_on(self, order: Order, name: str, value: bytearray) -> Answer:
        try:
            operation, new = await self._desk.write(lambda c, now: ordering.give(c, now, order, name))
            if not new:
                return self._begun(operation)
            try:
                worker = self._config.worker.socket.path
                await upstream.hand_on(worker, order.vps_id, name, value, operation.id)
            except RequestError as error:
                words = str(error)
                await self._desk.write(lambda c, now: operations.fail(c, now, operation.id, words))
                raise
            return self._begun(await self._finish(operation))
        finally:
            value[:] = bytes(len(value))

    async def _finish(self, operation: Operation) -> Operation:
        """Write that an operation is done, whose outcome can't be had again: the caller gets it in any case.

        Where the database is away just now, settling.py sees later that it is done.
        """
        try:
            return await self._desk.write(lambda c, now: _finished(c, now, operation))
        except DatabaseError as error:
            words = "%s %s is done, and that could not be written down yet: %s"
            _log.warning(words, operation.kind, operation.target, error)
            return operation

    def _ordering(self, operation_id: str, act: Callable[[Connection, float, Order], Operation]) -> Handler:
        kind = _ORDERS[operation_id]

        async def carry_out(ask: Ask) -> Answer:
            order = ask.order(kind)
            work = self._desk.write(lambda c, now: act(c, now, order))
            return self._begun(await self._desk.see_through(work))

        return carry_out

    def _begun(self, operation: Operation) -> Answer:
        """Answer with an operation; the worker is told, which nobody has to wait for."""
        self._woken()
        if operation.target != "*":
            self._wake(operation.target)
        return Answer(content.operation(operation), 202, f"/v1/operations/{operation.id}")

    def _wake(self, vps_id: str) -> None:
        task = asyncio.ensure_future(upstream.wake(self._config.worker.socket.path, vps_id))
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)

    async def _list_operations(self, ask: Ask) -> Answer:
        vps, state, limit = ask.query["vps"], ask.query["state"], int(ask.query["limit"])
        rows = await self._desk.read(lambda c, _: operations_of(c, vps, state, limit))
        return Answer({"items": [content.operation(row) for row in rows]})

    async def _show_operation(self, ask: Ask) -> Answer:
        row = await self._desk.read(lambda c, _: operations.get(c, ask.path["operation"]))
        if row is None:
            raise RequestError(NO_SUCH_OPERATION, "GET /v1/operations lists them")
        return Answer(content.operation(row))

    async def _list_rotations(self, ask: Ask) -> Answer:
        limit, late = int(ask.query["limit"]), ask.query["state"] == "overdue"
        rows = await self._desk.read(
            lambda c, now: rotations.overdue(c, now, limit) if late else open_rotations(c, limit)
        )
        return Answer({"items": [content.rotation(row) for row in rows]})

    async def _list_history(self, ask: Ask) -> Answer:
        vps, before, limit = ask.query["vps"], ask.query["before"], int(ask.query["limit"])
        rows = await self._desk.read(lambda c, _: history.page(c, vps=vps, before=before, limit=limit + 1))
        page = rows[:limit]
        more = page[-1].id if len(rows) > limit else None
        return Answer({"items": [content.entry(row) for row in page], "next": more})

    async def _list_backups(self, ask: Ask) -> Answer:
        rows = await self._desk.read(lambda c, _: backups.page(c, int(ask.query["limit"])))
        return Answer({"items": [content.backup(row) for row in rows]})

    async def _list_checks(self, _: Ask) -> Answer:
        rows = await self._desk.read(lambda c, _: checks.latest(c))
        return Answer({"items": [content.check(row) for row in rows]})

    async def _list_blueprints(self, _: Ask) -> Answer:
        rows = await self._desk.read(lambda c, _: blueprints.all_of(c))
        return Answer({"items": [content.blueprint(row) for row in rows]})

    async def _show_figures(self, _: Ask) -> Answer:
        wanted = self._config.backups
        return Answer(await self._desk.read(lambda c, now: _figures(c, now, wanted)))

    async def _show_metrics(self, _: Ask) -> TextAnswer:
        text = await self._desk.read(self._metrics.exposition)
        return TextAnswer(text, METRICS_TYPE)


def _user_of(row: VpsRow) -> str:
    """Return the user that the ACLs of an adopted VPS name."""
    if not row.user_id or not row.container:
        raise RequestError(CONFLICT, "nothing of this VPS is known that could be kept: adopt it first")
    return row.user_id


def _finished(c: Connection, now: float, operation: Operation) -> Operation:
    operations.finish(c, now, operation.id)
    return operations.get(c, operation.id) or operation


async def _list_keys(_: Ask) -> Answer:
    return Answer({"keys": []})


async def _show_contract(_: Ask) -> Answer:
    return Answer(contract.DOCUMENT)


def _detail(c: Connection, now: float, vps_id: str) -> dict[str, Content]:
    seen = fleet.one(c, now, vps_id)
    if seen is None:
        raise RequestError(NO_SUCH_VPS, "GET /v1/vps, or vps-secrets-deploy vps list, lists them")
    return {
        "vps": content.vps(seen),
        "secrets": [content.secret(row) for row in secrets.of(c, vps_id)],
        "rotations": [content.rotation(row) for row in rotations.open_of(c, vps_id)],
    }


def _figures(c: Connection, now: float, wanted: Sequence[Backup]) -> dict[str, Content]:
    month = rotations.figures(c, now, now - MONTH_S)
    return {
        "vps": dict(fleet.counts(c, now)),
        "waiting": operations.waiting(c, now),
        "joiningLong": fleet.joining_long(c, now),
        "rotations": {
            "due": month.due,
            "inTime": month.in_time,
            "late": month.late,
            "worst": month.worst_s,
            "open": month.open,
            "givenUp": month.given_up,
            "unattended": month.unattended,
            "external": month.external,
        },
        "byHand": list(history.left_to_a_person(c, now - WEEK_S)),
        "backups": [content.place(each) for each in backup_health.health(c, now, wanted)],
    }


def operations_of(c: Connection, vps: str | None, state: str | None, limit: int) -> tuple[Operation, ...]:
    """Return operations, newest first: of one VPS, or of all; in one state, or in any."""
    there = schema.operation
    query = select(there).order_by(there.c.created_at.desc(), there.c.id).limit(limit)
    if vps is not None:
        query = query.where(there.c.target == vps)
    if state is not None:
        query = query.where(there.c.state == state)
    return tuple(Operation(**row._mapping) for row in c.execute(query))  # noqa: SLF001  # its public name


def open_rotations(c: Connection, limit: int) -> tuple[rotations.RotationRow, ...]:
    """Return rotations that have not ended, those with a date first, the earliest before."""
    there = schema.rotation
    query = (
        select(there)
        .where(there.c.ended_at.is_(None))
        .order_by(there.c.due.is_(None), there.c.due, there.c.wanted_at)
        .limit(limit)
    )
    rows = (dict(row._mapping) for row in c.execute(query))  # noqa: SLF001  # its public name
    return tuple(rotations.RotationRow(**{**row, "names": tuple(row["names"])}) for row in rows)
