"""One door's server: accepts its connections within the limits, ends the late ones, and drains at the end.

The listening socket is somebody else's: it is never closed here, so whoever connects once it is no longer
accepted from waits in the kernel's queue for the next process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import select
import socket
from typing import TYPE_CHECKING, Final

from agent.core.errors import BODY_NOT_EXPECTED, TOO_MANY_CONNECTIONS, TOO_MANY_REQUESTS, RequestError
from agent.serve.host import peer
from agent.serve.host.logs import place
from agent.serve.http.connection import Connection
from agent.serve.http.responses import head, problem_response

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.core.http import Request
    from agent.serve.http.door import Door
    from agent.serve.http.limits import CallerLimits
    from agent.serve.http.traffic import Traffic

ACCEPTED_IN_A_TURN: Final = 16
"""How many connections are accepted before those that are there are looked at again."""
SEND_BUFFER: Final = 32768
"""Bytes of answers that wait in the kernel for a caller to read them; the kernel doubles it (socket(7)).

They count as the agent's memory (MemoryMax=); by default it would be 200 kB for each connection.
"""
ACCEPT_AGAIN_S: Final = 1.0
"""When to accept again after the process had no descriptor left."""
CROWDED_RETRY_S: Final = 1.0
TURNED_AWAY_S: Final = 0.2
"""How long a connection past the limits stays, so that its caller can send and then finds why."""
MAX_TURNED_AWAY: Final = 128
"""How many of them may; more are closed at once."""
DRAIN_S: Final = 0.5
"""How long connections that are idle may take to ask once more, at the end."""
GOODBYE_S: Final = 2.0
"""How long requests that are being answered may take after that."""

_log: Final = logging.getLogger("agent.door")


class Server:
    """Owns the connections of one door and the one timer for their deadlines."""

    def __init__(self, door: Door, caller_limits: CallerLimits, traffic: Traffic) -> None:
        self.door: Final = door
        self.caller_limits: Final = caller_limits
        self.traffic: Final = traffic
        self.loop: Final = asyncio.get_running_loop()
        self.poll: Final = select.epoll()
        self.draining = False
        self._listener: socket.socket | None = None
        self._connections: dict[int, Connection] = {}
        self._turned_away: set[socket.socket] = set()
        self._emptied: Final = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = math.inf
        crowded = problem_response(RequestError(TOO_MANY_CONNECTIONS, retry_after=CROWDED_RETRY_S))
        self._crowded: Final = head(crowded, closes=True) + crowded.body

    def accept(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        listener.settimeout(0)
        self._listener = listener
        self.loop.add_reader(listener, self._acceptable)
        self.loop.add_reader(self.poll, self._ready)

    def stop(self) -> None:
        """Accept no more; each answer from now on is the last one of its connection, and says so."""
        self.draining = True
        self._pause()

    def _pause(self) -> None:
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener = None

    def look_again(self) -> None:
        """Count anew who is a stranger: the grants are others, or their users and groups."""
        for connection in self._connections.values():
            ungranted = connection.peer is None or not self.door.knows(connection.peer)
            if ungranted != connection.ungranted:
                self.caller_limits.turned(ungranted=ungranted)
                connection.ungranted = ungranted

    async def drain(self) -> None:
        """Answer whoever is connected once more, and ask them to come back on a new connection.

        A client that has just sent a request must not find its connection closed: the next answer on each
        carries ``Connection: close``, and an idle one is closed only after a last look at what has come.
        """
        self.stop()
        await self._empty(DRAIN_S)
        for connection in list(self._connections.values()):
            connection.close_gracefully()
        await self._empty(GOODBYE_S)
        for connection in list(self._connections.values()):
            connection.close()
        for turned_away in list(self._turned_away):
            self._close(turned_away)
        if self._timer is not None:
            self._timer.cancel()
        self.loop.remove_reader(self.poll)
        self.poll.close()

    def admit(self, request: Request, caller: Peer | None) -> None:
        """Refuse what no door takes.

        A body is refused first: that ends the connection, else its bytes would be taken for a request.

        Raises:
            RequestError: the request has a body, or its uid has asked too much.
        """
        if request.has_body:
            raise RequestError(BODY_NOT_EXPECTED)
        wait = self.caller_limits.wait(caller.uid, self.loop.time()) if caller is not None else 0.0
        if wait:
            raise RequestError(TOO_MANY_REQUESTS, retry_after=wait)

    def expect(self, deadline: float) -> None:
        """Look at the deadlines at this moment at the latest.

        A timer for each request would cost more than the request: there is one, for the soonest of all.
        """
        if deadline < self._look_at:
            if self._timer is not None:
                self._timer.cancel()
            self._look_at = deadline
            self._timer = self.loop.call_at(deadline, self._look)

    def forget(self, connection: Connection) -> None:
        """Count a connection out that has closed itself."""
        del self._connections[connection.descriptor]
        caller = connection.peer
        self.caller_limits.leave(caller.uid if caller else -1, ungranted=connection.ungranted)
        self.traffic.connections[self.door.name] -= 1
        if not self._connections:
            self._emptied.set()

    def _ready(self) -> None:
        """Have each connection go on where something has happened; one that has closed since is not there."""
        for descriptor, events in self.poll.poll(0):
            connection = self._connections.get(descriptor)
            if connection is not None:
                try:
                    connection.ready(events)
                except Exception as error:  # noqa: BLE001  # a bug costs this connection, no other and no timer
                    self._give_up(connection, error)

    def _acceptable(self) -> None:
        assert self._listener is not None  # noqa: S101  # _pause() also ends the calls of this
        for _ in range(ACCEPTED_IN_A_TURN):
            try:
                accepted, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                listener = self._listener
                self._pause()
                self.loop.call_later(ACCEPT_AGAIN_S, self._accept_again, listener)
                _log.error("no connection can be accepted for %s s: %s", ACCEPT_AGAIN_S, error.strerror)
                return
            try:
                self._welcome(accepted)
            except Exception as error:  # noqa: BLE001  # the next one must be accepted all the same
                _log.error("a new connection is closed because of a bug, report it: %s", place(error))
                accepted.close()

    @staticmethod
    def _give_up(connection: Connection, error: Exception) -> None:
        _log.error("a connection is closed because of a bug, report it: %s", place(error))
        connection.close()

    def _accept_again(self, listener: socket.socket) -> None:
        if not self.draining:
            self.accept(listener)

    def _welcome(self, accepted: socket.socket) -> None:
        """Take the peer, and count the connection in or refuse it."""
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        caller = peer.of(accepted)
        find_unit = None
        if caller is not None:
            find_unit = functools.partial(peer.with_unit, accepted, caller, peer.pin(caller.pid))
            if self.door.wants_unit():
                caller, find_unit = find_unit(), None
        ungranted = caller is None or not self.door.knows(caller)
        if not self.caller_limits.enter(caller.uid if caller else -1, ungranted=ungranted):
            self._turn_away(accepted)
            return
        self.traffic.connections[self.door.name] += 1
        connection = Connection(self, accepted, caller, find_unit, ungranted=ungranted)
        self._connections[connection.descriptor] = connection
        try:
            connection.begin()
        except Exception as error:  # noqa: BLE001  # as in _ready
            self._give_up(connection, error)

    def _turn_away(self, accepted: socket.socket) -> None:
        """Say that there are too many, and close."""
        self.traffic.refused[self.door.name] += 1
        with contextlib.suppress(OSError):
            accepted.send(self._crowded, socket.MSG_DONTWAIT)
        if len(self._turned_away) >= MAX_TURNED_AWAY:
            accepted.close()
            return
        self._turned_away.add(accepted)
        self.loop.call_later(TURNED_AWAY_S, self._close, accepted)

    def _close(self, turned_away: socket.socket) -> None:
        self._turned_away.discard(turned_away)
        turned_away.close()

    def _look(self) -> None:
        """End what is late, and look again when the next is due."""
        now = self.loop.time()
        self._timer, self._look_at = None, math.inf
        for connection in [one for one in self._connections.values() if one.deadline <= now]:
            try:
                connection.on_deadline()
            except Exception as error:  # noqa: BLE001  # as in _ready
                self._give_up(connection, error)
        self.expect(min((one.deadline for one in self._connections.values()), default=math.inf))

    async def _empty(self, seconds: float) -> None:
        """Wait until there are no connections, or the time is up."""
        self._emptied.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._emptied.wait()
