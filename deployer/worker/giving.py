"""A value that a person or a portal gives: stored and listed by this worker, while the giver waits.

It exists in this process only, so no other worker can do it: this one takes the lease of the VPS itself.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Final

from common import sealed
from common.sealed import Header
from deployer.cloud.errors import CloudError
from deployer.database import blueprints, engine, operations, rotations, vpses
from deployer.database.errors import ConflictError, DatabaseError, NotFoundError
from deployer.kinds.kind import KindError
from deployer.worker import making
from deployer.worker.clock import steady
from deployer.worker.joining import JOINING
from deployer.worker.recording import NO_KEY, PROVISIONING, TWO_KEYS, WAITING

if TYPE_CHECKING:
    from common.errors import VpsSecretsError
    from common.names import SecretName
    from deployer.kinds.value import Value
    from deployer.worker.loop import Worker
    from deployer.worker.means import Means

WAIT_S: Final = 40.0
"""For another worker to give the VPS back."""
PAUSE_S: Final = 0.2
AGAIN_S: Final = 2.0
"""After a failure of the cloud: the value is in hand, and whoever gave it waits."""
BUSY: Final = "others had this VPS all the time: give the value again"
WITHOUT_KEY: Final = frozenset({"new", PROVISIONING, JOINING, WAITING, TWO_KEYS, NO_KEY})


class NotJoinedError(ConflictError):
    """The VPS has no key yet that a value could be sealed to."""


class Giving:
    """Takes values for external secrets."""

    def __init__(self, means: Means, worker: Worker) -> None:
        self._means = means
        self._worker = worker

    def give(self, vps_id: str, name: SecretName, value: Value, operation_id: str = "") -> None:
        """Store a value, which is closed in the end; return when it is listed.

        Raises:
            NotFoundError, KindError: there is no such secret, or it is not one that a person gives.
            NotJoinedError: it has no key yet, as was looked up right now.
            ConflictError: another worker has the VPS, or something is in the way: give it again.
            CloudError, DatabaseError: as it says.
        """
        try:
            try:
                rotation = self._want(vps_id, name, value, operation_id)
            except NotJoinedError:  # as of the last look: whoever gives a value may know better
                self._look_once(vps_id)
                rotation = self._want(vps_id, name, value, operation_id)
        except BaseException:
            value.close()
            raise
        self._means.external.give(vps_id, name, value)
        try:
            self._see_to(vps_id, rotation)
        finally:
            self._means.external.withdraw(vps_id, name)

    def _want(self, vps_id: str, name: SecretName, value: Value, operation_id: str) -> str:
        """Want a rotation to the value; return its id."""
        with self._means.database.write() as c:
            row = vpses.get(c, vps_id)
            kept = blueprints.get(c, row.blueprint) if row else None
            if row is None or kept is None:
                raise NotFoundError("there is no VPS of this id")
            spec = self._means.parse(kept.name, kept.text).secrets.get(name)
            if spec is None:
                raise NotFoundError("its blueprint has no secret of this name")
            if spec.kind != "external":
                raise KindError(
                    "give", f"a {spec.kind} is made, not given: rotate it instead", permanent=True
                )
            if row.wanted != "present":
                raise ConflictError(f"this VPS is {row.wanted}: it gets no values")
            sequence, keep = int(self._means.now() * 1000), spec.wish(ever_made=False).keep_previous_s
            header = Header(vps_id, name, sequence, sequence, keep)
            if row.sealing == "required" and value.size > sealed.most_bytes(header):
                raise making.too_long(value, header)
            if row.sealing == "required" and row.state in WITHOUT_KEY:
                raise NotJoinedError(
                    f"it is {row.state}: a value is sealed to the key of its VPS, so it has to join first"
                )
            known = operations.get(c, operation_id) if operation_id else None
            rotation = rotations.want(
                c,
                self._means.now(),
                vps_id,
                spec.group,
                [name],
                reason="ordered",
                asked_by=known.asked_by if known else "worker.sock",
                note="a value was given",
            )
            vpses.wake(c, vps_id, vpses.ORDERED)
        return rotation

    def _see_to(self, vps_id: str, rotation: str) -> None:
        """Have the VPS looked at, here, until the rotation is listed."""
        ends, problem = time.monotonic() + WAIT_S, None
        while time.monotonic() < ends:
            with self._means.database.read() as c:
                order = rotations.get(c, rotation)
            if order is not None and order.state in {"listed", "arrived"}:
                return
            if order is None or order.state == "given-up":
                raise ConflictError("it was given up: " + (order.last_error if order else "it is not there"))
            problem = self._look(vps_id)
        raise problem or ConflictError(BUSY)

    def _look_once(self, vps_id: str) -> None:
        """Have the VPS looked at, here, to its end."""
        ends = time.monotonic() + WAIT_S
        while (problem := self._look(vps_id)) is not None:
            if time.monotonic() > ends:
                raise problem

    def _look(self, vps_id: str) -> VpsSecretsError | None:
        """Look at it; return what was in the way, after a pause, where trying again can help: or raise it.

        That is another worker or another task of this one, which has the VPS, or a cloud that failed.
        """
        owner = f"{self._worker.name}-giving-{uuid.uuid4()}"
        since = steady()
        try:
            with self._means.database.write() as c:
                row = vpses.claim(c, engine.time_of(c), vps_id, owner, self._means.lease_s)
            if row is None:
                time.sleep(PAUSE_S)
                return ConflictError(BUSY)
            error = self._worker.look_at(row, owner, since)
        except DatabaseError:
            self._worker.broke_off(owner)
            raise
        if isinstance(error, CloudError) and error.retriable:
            time.sleep(AGAIN_S)
            return error
        if error is not None:
            raise error
        return None
