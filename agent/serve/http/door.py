"""What a door is to its server and its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.core.http import Request
    from agent.serve.http.responses import Said


class Door(Protocol):
    """What decides. It never sees a socket."""

    @property
    def name(self) -> str:
        """The door's name in records and metrics."""
        ...

    @property
    def records_may_wait(self) -> bool:
        """Whether it gives no value, so that its records may be written after its answers."""
        ...

    def wants_unit(self) -> bool:
        """Return whether a caller's unit must be looked up, since a grant names one."""
        ...

    def knows(self, peer: Peer) -> bool:
        """Return whether the caller could be given anything at all."""
        ...

    def answer(self, request: Request, peer: Peer | None) -> Said:
        """Decide one request.

        Raises:
            RequestError: the caller gets an error answer.
        """
        ...
