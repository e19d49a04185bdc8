"""What serve has said about what it serves: asks fetch for it with each cycle, and knows what came of it.

The refresher's; the only writer of ``state.acknowledgement``. What is listed decides, not what was done
before: so whatever was cut short, or taken away, is made good by the next cycle (docs/adr/0024).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.serve.host import clock
from common.acknowledgement import served_digest

if TYPE_CHECKING:
    from agent.core.wire import Reply
    from agent.serve.state import State

_log: Final = logging.getLogger("agent.acknowledging")


class Acknowledging:
    """Off, it asks for nothing."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._asked: str | None = None
        self._listed: tuple[str, ...] = ()

    def ask(self) -> str | None:
        """Return what a cycle that begins now is to acknowledge, None for nothing."""
        self._asked = self._serves()
        return self._asked

    def note(self, reply: Reply) -> None:
        """Take the reply of a cycle that was good, once what it has brought is published."""
        if not self._state.config.fetch.acknowledge:
            return
        self._listed = reply.acknowledged
        status, snapshot, serves = self._state.acknowledgement, self._state.store.snapshot, self._serves()
        if snapshot is not None and serves in self._listed:
            if serves != status.digest:
                status.digest, status.at = serves, clock.wall()
                _log.info("generation %s is acknowledged", snapshot.generation)
            status.generation = snapshot.generation
        elif serves == status.digest:  # somebody has removed it
            status.digest = status.generation = status.at = None
        if reply.acknowledge_problem not in {status.problem, ""}:
            _log.warning("%s", reply.acknowledge_problem)
        status.problem = reply.acknowledge_problem

    def is_due(self) -> bool:
        """Return whether what is served is neither acknowledged nor was asked to be: it is new."""
        serves = self._serves()
        return serves not in {None, self._asked} and self._listed != (serves,)

    def _serves(self) -> str | None:
        snapshot = self._state.store.snapshot
        if snapshot is None or not self._state.config.fetch.acknowledge:
            return None
        return served_digest(snapshot.versions())


def is_current(state: State) -> bool:
    """Return whether what is served now is acknowledged."""
    snapshot = state.store.snapshot
    return snapshot is not None and state.acknowledgement.generation == snapshot.generation
