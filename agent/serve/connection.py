"""One connection to a door: aiohttp's HTTP server with our limits, the peer taken once, problems for errors.

Owns the timers of one connection. Limits: connections in all and per uid, size of the request line and of
the headers, time to send a request, idle time, requests a second per uid. aiohttp has no time limit for a
request's head, hence the timers here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from agent.core.errors import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    INTERNAL,
    TOO_MANY_CONNECTIONS,
    URI_TOO_LONG,
    Problem,
    RequestError,
)
from agent.serve import audit, peer
from agent.serve.responses import problem_response, raw_problem

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.serve.server import Server

LONGEST_LINE: Final = 4096
"""Bytes of a request line: the longest name and every parameter take less than a tenth of it."""

_log: Final = logging.getLogger("agent.door")


class Connection(web.RequestHandler):
    """A connection. ``peer`` is who made it, ``gone`` is set when it is lost or half-closed.

    ``crowded`` tells that so much came at once that a head may be in it which is larger than allowed.
    """

    __slots__ = (
        "_counted",
        "_crowd",
        "_deadline",
        "_door",
        "_half_closed",
        "_head_bytes",
        "_timer",
        "_traffic",
        "_wants_unit",
        "_who",
        "crowded",
        "gone",
        "peer",
    )

    def __init__(self, server: Server, **settings: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._crowd = server.crowd
        self._traffic = server.traffic
        self._door = server.door
        self._wants_unit = server.wants_unit
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None
        self._who = audit.caller(self._door, None)
        self._counted = False
        self._half_closed = False
        self._head_bytes = 0
        self.peer: Peer | None = None
        self.crowded = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the peer, count the connection, refuse it where there are too many."""
        super().connection_made(transport)
        self.peer = peer.of(transport, with_unit=self._wants_unit())
        self._who = audit.caller(self._door, self.peer)
        self._counted = self._crowd.enter(self.peer.uid if self.peer else -1)
        if self._counted:
            self._traffic.connections[self._door] += 1
            self._arm(self._crowd.limits.idle_timeout)
        else:
            self._traffic.refused[self._door] += 1
            self._refuse(TOO_MANY_CONNECTIONS)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count the connection out and wake whoever waits on its behalf."""
        if self._timer is not None:
            self._timer.cancel()
        if self._counted:
            self._counted = False
            self._crowd.leave(self.peer.uid if self.peer else -1)
            self._traffic.connections[self._door] -= 1
        self.gone.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound a request's head: its time from its first byte on, and its size."""
        if not self._counted:
            return
        complete = self._request_count
        if self._head_bytes + len(data) > self._crowd.limits.header_bytes:
            self.crowded = True
        super().data_received(data)
        if self._request_count != complete:
            self._head_bytes = 0
        elif self._current_request is None and not self._messages:
            if not self._head_bytes:
                self._arm(self._crowd.limits.header_timeout)
            self._head_bytes += len(data)
            if self._head_bytes > self._crowd.limits.header_bytes:
                self.record("?", record_of(HEADERS_TOO_LARGE))
                self._refuse(HEADERS_TOO_LARGE)

    def eof_received(self) -> bool | None:  # type: ignore[override]  # asyncio's contract; aiohttp narrowed it
        """A client that has closed its half still gets the answers to what it asked."""
        self._half_closed = True
        self.gone.set()  # a watcher that closes its half can't be told from one that has left
        idle = self._waiter is not None and not self._waiter.done()
        return bool(self._messages) or (self._request_count > 0 and not idle)

    @property
    def header_bytes(self) -> int:
        """How large a request's head may be."""
        return self._crowd.limits.header_bytes

    def begin(self) -> float:
        """A request's head is complete: no timer runs while it is answered. Return the wait its uid owes."""
        self._deadline = None
        if not self._crowd.limits.requests_per_second or self.peer is None:
            return 0.0
        return self._crowd.wait(self.peer.uid, self._loop.time())

    def end(self) -> None:
        """The answer is on its way: the next request may take the idle time to begin."""
        if self._half_closed and not self._messages:
            self._close = True
        elif not self.gone.is_set():
            self._arm(self._crowd.limits.idle_timeout)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or an error that nobody caught, with fixed text only."""
        del request, message  # both quote what was received
        problem = _problem_of(status, exc)
        if problem is INTERNAL:
            _log.error("a request failed with %s", type(exc).__name__)
        self.record("?", record_of(problem))
        response = problem_response(RequestError(problem))
        response.force_close()
        return response

    def record(self, method: str, record: audit.Record) -> None:
        """Write the request's audit record and count it.

        Raises:
            OSError: it could not be written, so nothing may be served.
        """
        audit.write(self._who, method, record)
        self._traffic.requests[self._door, record.outcome] += 1

    def _refuse(self, problem: Problem) -> None:
        """Answer past the HTTP server, and close."""
        if self.transport is not None:
            self.transport.write(raw_problem(problem))
        self.force_close()

    def _arm(self, seconds: float | None) -> None:
        """Close the connection in so many seconds, or not at all.

        A timer per request would cost more than a request: the one there is looks at the deadline when it
        fires, and only one that would fire too late is replaced.
        """
        if seconds is None:
            self._deadline = None
            return
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            self._start_timer(self._deadline)

    def _start_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._late)

    def _late(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self._loop.time() >= self._deadline:
            self.force_close()
        else:
            self._start_timer(self._deadline)


def record_of(problem: Problem, action: str = "", names: tuple[str, ...] = ()) -> audit.Record:
    """Return the audit record of a request that was refused."""
    return audit.Record(problem.outcome, problem.status, action, dict.fromkeys(names), reason=problem.type)


def _problem_of(status: int, exc: BaseException | None) -> Problem:
    if isinstance(exc, LineTooLong):
        # its arguments are what was received, the limit, the size; only the request line has this limit
        return URI_TOO_LONG if str(LONGEST_LINE) in map(str, exc.args[1:2]) else HEADERS_TOO_LARGE
    if isinstance(exc, BadHttpMessage) or 400 <= status < 500:  # noqa: PLR2004  # RFC 9110, 15.5
        return BAD_REQUEST
    return INTERNAL
