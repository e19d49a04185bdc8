"""One connection to a door: aiohttp's HTTP server with our limits, the peer taken once, problems for errors.

Owns the timers of one connection. Limits: connections in all and per uid, size of the request line and of
the headers, time to send a request, idle time, requests a second per uid. aiohttp has no time limit for a
request's head, hence the timers here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from agent.core.errors import (
    BAD_REQUEST,
    BODY_NOT_EXPECTED,
    HEADERS_TOO_LARGE,
    INTERNAL,
    TOO_MANY_CONNECTIONS,
    TOO_MANY_REQUESTS,
    URI_TOO_LONG,
    Problem,
    RequestError,
)
from agent.serve import audit, peer
from agent.serve.responses import problem_response, raw_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.core.access import Peer
    from agent.serve.crowd import Crowd
    from agent.serve.state import Traffic

LONGEST_LINE: Final = 4096
"""Bytes of a request line: the longest name and every parameter take less than a tenth of it."""

_log: Final = logging.getLogger("agent.door")


class Answer(NamedTuple):
    """What a door says to one request: an audit record, then a response or a stream that writes itself."""

    record: audit.Record
    response: web.Response | None = None
    stream: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None


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
        self._who = ""
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
                self.record("?", _record_of(HEADERS_TOO_LARGE))
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
        self.record("?", _record_of(problem))
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


class Server(web.Server):
    """Makes the connections of one door and hands their requests to ``answer``, which decides."""

    def __init__(
        self,
        answer: Callable[[web.BaseRequest, Connection], Awaitable[Answer]],
        door: str,
        crowd: Crowd,
        traffic: Traffic,
        wants_unit: Callable[[], bool] = lambda: False,
    ) -> None:
        """``wants_unit`` tells whether a grant names a unit, so that a caller's must be looked up."""
        super().__init__(self._handle)
        self.wants_unit: Final = wants_unit
        self.door: Final = door
        self.crowd: Final = crowd
        self.traffic: Final = traffic
        self._answer = answer

    def __call__(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(
            self,
            keepalive_timeout=self.crowd.limits.idle_timeout,
            access_log=None,
            logger=_Quiet("agent.aiohttp"),
            max_line_size=LONGEST_LINE,
            max_field_size=self.crowd.limits.header_bytes,
            auto_decompress=False,
            lingering_time=1.0,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Have the request decided, write its one audit record, then let the bytes leave."""
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101  # __call__ made it
        wait = connection.begin()
        try:
            try:
                _admit(request, connection, wait)
                answer = await self._answer(request, connection)
            except RequestError as error:
                answer = _refusal(request, error)
            except Exception as error:  # noqa: BLE001  # rule 4: fixed text; only the type is told, texts may hold values
                _log.error("a request failed with %s", type(error).__name__)  # never a traceback
                answer = _refusal(request, RequestError(INTERNAL))
            connection.record(request.method, answer.record)
        except OSError as error:
            _log.error("no audit record could be written: %s", error.strerror)  # never a traceback
            return problem_response(RequestError(INTERNAL))
        finally:
            connection.end()
        if answer.stream is not None:
            return await answer.stream(request)
        assert answer.response is not None  # noqa: S101  # one of both
        return answer.response


class _Quiet(logging.Logger):
    """aiohttp's own logger, off: its error lines quote requests and carry tracebacks."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802  # logging's name
        """Nothing is logged."""
        del level
        return False


def _admit(request: web.BaseRequest, connection: Connection, wait: float) -> None:
    """Refuse what no door takes; aiohttp's releases differ in which of this they refuse themselves."""
    if request.version.major != 1:
        raise RequestError(BAD_REQUEST)
    if connection.crowded:
        head = sum(len(key) + len(value) + 4 for key, value in request.raw_headers)
        if head > connection.header_bytes:
            raise RequestError(HEADERS_TOO_LARGE)
    if wait:
        raise RequestError(TOO_MANY_REQUESTS, retry_after=wait)
    if request.body_exists:
        raise RequestError(BODY_NOT_EXPECTED)


def _refusal(request: web.BaseRequest, error: RequestError) -> Answer:
    response = problem_response(error)
    if error.problem in {BODY_NOT_EXPECTED, BAD_REQUEST, HEADERS_TOO_LARGE}:
        response.force_close()
    return Answer(_record_of(error.problem, request.raw_path.partition("?")[0], error.names), response)


def _record_of(problem: Problem, action: str = "", names: tuple[str, ...] = ()) -> audit.Record:
    return audit.Record(problem.outcome, problem.status, action, dict.fromkeys(names), reason=problem.type)


def _problem_of(status: int, exc: BaseException | None) -> Problem:
    if isinstance(exc, LineTooLong):
        # its arguments are what was received, the limit, the size; only the request line has this limit
        return URI_TOO_LONG if str(LONGEST_LINE) in map(str, exc.args[1:2]) else HEADERS_TOO_LARGE
    if isinstance(exc, BadHttpMessage) or 400 <= status < 500:  # noqa: PLR2004  # RFC 9110, 15.5
        return BAD_REQUEST
    return INTERNAL
