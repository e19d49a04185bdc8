"""One door's HTTP server: makes its connections, has each request decided, and lets the bytes leave.

Every request gets one audit record before its answer leaves; whatever goes wrong, the answer is fixed text.
At the end of the agent the door is drained: whoever is connected gets an answer and is asked to come back.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from aiohttp import web

from agent.core.errors import (
    BAD_REQUEST,
    BODY_NOT_EXPECTED,
    HEADERS_TOO_LARGE,
    INTERNAL,
    TOO_MANY_REQUESTS,
    RequestError,
)
from agent.serve.connection import LONGEST_LINE, Connection, record_of
from agent.serve.responses import problem_response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.serve import audit
    from agent.serve.crowd import Crowd
    from agent.serve.state import Traffic

DRAIN_S: Final = 0.5
"""How long connections that are idle may take to ask once more, at the end."""

_log: Final = logging.getLogger("agent.door")


class Answer(NamedTuple):
    """What a door says to one request: an audit record, then a response or a stream that writes itself."""

    record: audit.Record
    response: web.Response | None = None
    stream: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] | None = None


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
        self._draining = False

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
        if self._draining:
            answer.response.force_close()
        return answer.response

    async def drain(self) -> None:
        """Answer whoever is connected once more, and ask them to come back on a new connection.

        A client that has just sent a request must not find its connection closed: the next answer on each
        carries ``Connection: close``. New connections wait in the socket's queue for the next process.
        """
        self._draining = True
        end = self._loop.time() + DRAIN_S
        while self.connections and self._loop.time() < end:  # noqa: ASYNC110  # aiohttp counts, without an event
            await asyncio.sleep(0.01)


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
    return Answer(record_of(error.problem, request.raw_path.partition("?")[0], error.names), response)
