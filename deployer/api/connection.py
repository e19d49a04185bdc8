"""One connection of a caller: who it is, and how long a request may take to arrive.

aiohttp's own protocol, with what it lacks: a bound on connections, for all and for each caller, a deadline
for a request that arrives slowly, and error answers that quote nothing of the request. What follows a body
that was longer than it said may be a value, read as the beginning of a next request.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from aiohttp.web_protocol import RequestHandler

from deployer.api import callers
from deployer.api.answering import problem_of
from deployer.api.problems import (
    BAD_REQUEST,
    HEADERS_TOO_LARGE,
    INTERNAL,
    TOO_MANY,
    TOO_SLOW,
    Problem,
    RequestError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from aiohttp import web

    from deployer.api.callers import Peer, Subject
    from deployer.config.model import Limits

SILENT: Final = logging.getLogger("deployer.api.aiohttp")
"""What the library would log may hold parts of requests, so it goes nowhere; ours are logged by us."""
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False
_LARGE: Final = 431
_LAST_WORDS_S: Final = 5.0
_MOST_UNREAD: Final = 256 * 1024
"""Bytes that may come before a head is whole: more than any head, with the body that comes along with it."""


class Doorkeeper:
    """Counts connections; the only one who does."""

    def __init__(self, limits: Limits) -> None:
        self.limits: Final = limits
        self.open: Final[Counter[Hashable]] = Counter()
        self.refused = 0

    def admit(self, caller: Hashable) -> bool:
        """Count one more connection of a caller, unless that is too many."""
        limits = self.limits
        if self.open.total() >= limits.connections or self.open[caller] >= limits.connections_per_caller:
            self.refused += 1
            return False
        self.open[caller] += 1
        return True

    def leave(self, caller: Hashable) -> None:
        """Count one connection less."""
        self.open[caller] -= 1
        if not self.open[caller]:
            del self.open[caller]


class Connection(RequestHandler):
    """One connection; ``peer`` or ``subject`` is who has made it."""

    __slots__ = ("_admitted", "_deadline", "_doorkeeper", "_unread", "peer", "subject")

    def __init__(self, server: web.Server, doorkeeper: Doorkeeper, loop: asyncio.AbstractEventLoop) -> None:
        limits = doorkeeper.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_timeout,
            logger=SILENT,
            access_log=None,  # type: ignore[arg-type]  # documented: no access log
            max_line_size=limits.header_bytes,
            max_field_size=limits.header_bytes,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._doorkeeper = doorkeeper
        self._admitted: Hashable | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._unread = 0
        self.peer: Peer | None = None
        self.subject: Subject | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take who it is once, and refuse one connection too many."""
        certificate = transport.get_extra_info("peercert")
        if transport.get_extra_info("sslcontext") is not None:
            self.subject = callers.subject_of(certificate)
        else:
            self.peer = callers.peer_of(transport.get_extra_info("socket"))
        caller = self.subject or (self.peer and self.peer.uid)
        super().connection_made(transport)
        if not self._doorkeeper.admit(caller):
            self._end(RequestError(TOO_MANY, "close connections that are not in use", retry_after=1))
            return
        self._admitted = (caller,)
        self._expect()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self.arrived()
        if isinstance(self._admitted, tuple):
            self._doorkeeper.leave(self._admitted[0])
            self._admitted = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Begin to wait for a whole request with its first byte."""
        if self._deadline is None and not self._current_request:
            self._expect()
        if self._deadline is not None:
            self._unread += len(data)
            if self._unread > _MOST_UNREAD:  # older libraries take fields without an end
                self._end(RequestError(HEADERS_TOO_LARGE))
                return
        super().data_received(data)

    def arrived(self) -> None:
        """A request's head is there: its reader has a deadline of its own for the body."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._unread = 0

    async def finish_response(self, *arguments: Any, **named: Any) -> Any:
        """Give up on a caller who does not read his answer."""
        limit = self._doorkeeper.limits.idle_timeout
        self._deadline = self._loop.call_later(limit, self._abort)
        try:
            return await super().finish_response(*arguments, **named)
        finally:
            self.arrived()

    def force_close(self) -> None:
        """Close; what can't be sent is kept for a moment only."""
        transport = self.transport
        unsent = transport is not None and not transport.is_closing() and transport.get_write_buffer_size()
        super().force_close()
        if transport is not None and unsent:
            self._loop.call_later(_LAST_WORDS_S, transport.abort)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the request
    ) -> web.StreamResponse:
        """Answer what the library could not read, or what failed, without a word of either."""
        self.arrived()
        problem = INTERNAL if status >= INTERNAL.status else BAD_REQUEST
        if type(exc).__name__ in {"LineTooLong", "HeadersTooLong"} or status == _LARGE:
            problem = HEADERS_TOO_LARGE
        response = problem_of(RequestError(problem))
        response.force_close()
        if request.protocol is self:
            self.keep_alive(val=False)
        return response

    def _expect(self) -> None:
        limit = self._doorkeeper.limits.request_timeout
        self._deadline = self._loop.call_later(limit, self._too_slow)

    def _abort(self) -> None:
        self._deadline = None
        if self.transport is not None:
            self.transport.abort()

    def _too_slow(self) -> None:
        self._deadline = None
        self._end(RequestError(TOO_SLOW, "send the whole request at once"))

    def _end(self, error: RequestError) -> None:
        """Write an answer where no request was read, and close."""
        if self.transport is not None:
            self.transport.write(_raw(error))
        self.force_close()


def _raw(error: RequestError) -> bytes:
    problem: Problem = error.problem
    body = json.dumps(error.content()).encode()
    retry = f"Retry-After: {error.retry_after}\r\n" if error.retry_after is not None else ""
    head = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: application/problem+json\r\n"
        f"Cache-Control: no-store\r\n{retry}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection that a request came on."""
    protocol: Any = request.protocol
    assert isinstance(protocol, Connection)  # noqa: S101  # our server makes no other
    return protocol
