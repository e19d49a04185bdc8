"""The lease that a task has on a VPS, by its own clock: asked before everything that changes something.

A worker may stand still for as long as it likes (a paused machine, a full disk), and another one takes the
VPS over. What the first one was about to do then, it must not do: list, delete, or set a password at a third
party. So before each call it looks at a clock that ran on meanwhile, and asks the database now and then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.database import engine, vpses
from deployer.database.errors import LeaseLostError
from deployer.worker.clock import steady

if TYPE_CHECKING:
    from deployer.database.engine import Database


class Lease:
    """What ``owner`` has of a VPS since ``since`` (of :func:`steady`): a moment before it asked for it."""

    def __init__(self, database: Database, vps_id: str, owner: str, lease_s: float, since: float) -> None:
        self._database = database
        self._vps_id = vps_id
        self._lease_s = lease_s
        self._since = since
        self.owner = owner

    def hold(self) -> None:
        """Go on only with the lease; have it for longer when a third of it has passed.

        Never inside a transaction.

        Raises:
            LeaseLostError: it ran out: somebody else has the VPS, or may have.
            DatabaseError: the database is away.
        """
        now = steady()
        if now - self._since >= self._lease_s:
            raise LeaseLostError(f"the lease on {self._vps_id} ran out: another worker goes on with it")
        if now - self._since >= self._lease_s / 3:
            with self._database.write() as c:
                vpses.keep_lease(c, engine.time_of(c), self._vps_id, self.owner, self._lease_s)
            self._since = now
