"""One connection to a door: takes requests off its channel, has them decided in order, writes the answers.

Memory is bounded: what a caller sends meanwhile waits in the kernel, and nothing more is answered while it
does not read. One request is taken in a turn of the event loop, so that a caller with many of them does not
keep the others waiting.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import math
import socket
from typing import TYPE_CHECKING, Final, Protocol

from agent.core import http
from agent.core.errors import (
    AUDIT_UNAVAILABLE,
    BAD_REQUEST,
    BODY_NOT_EXPECTED,
    HEADERS_TOO_LARGE,
    INTERNAL,
    URI_TOO_LONG,
    RequestError,
)
from agent.serve.host import audit
from agent.serve.host.audit import Record
from agent.serve.http.channel import Channel
from agent.serve.http.responses import Answer, DeferredAnswer, Said, head, problem_response, refusal_record

if TYPE_CHECKING:
    import asyncio
    import select
    from collections.abc import AsyncGenerator, Callable

    from agent.core.access import Peer
    from agent.serve.http.door import Door
    from agent.serve.http.limits import CallerLimits
    from agent.serve.http.traffic import Traffic

LINGER_S: Final = 1.0
"""How long a caller that was refused may go on sending, so that it finds the answer and no broken pipe."""
UNRECORDED_RETRY_S: Final = 5.0
"""When to ask again after a request was refused since its record could not be written."""
NO_REQUEST: Final = frozenset({BAD_REQUEST, BODY_NOT_EXPECTED, HEADERS_TOO_LARGE, URI_TOO_LONG})
"""After one of these nobody knows where the next request would begin."""

_log: Final = logging.getLogger("agent.door")


class Host(Protocol):
    """What a connection needs of the server that owns it."""

    draining: bool
    """Whether each answer is the last one of its connection."""

    @property
    def door(self) -> Door:
        """What decides."""
        ...

    @property
    def caller_limits(self) -> CallerLimits:
        """What callers may use."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Where answers are counted."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, and the clock of all deadlines."""
        ...

    @property
    def poll(self) -> select.epoll:
        """What waits for all connections at once."""
        ...

    def admit(self, request: http.Request, caller: Peer | None) -> None:
        """Refuse what no door takes.

        Raises:
            RequestError: the caller gets an error answer.
        """
        ...

    def expect(self, deadline: float) -> None:
        """Look at the deadlines at this moment at the latest."""
        ...

    def forget(self, connection: Connection) -> None:
        """Count a connection out that has closed itself."""
        ...


class _Phase(enum.Enum):
    IDLE = enum.auto()  # a request is awaited, or a part of one is there
    BUSY = enum.auto()  # a request is being answered
    LINGERING = enum.auto()  # all is said: what still comes is dropped


class Connection(Channel):
    """A connection of ``peer``. ``deadline`` is when the server ends it, on the loop's clock (s)."""

    __slots__ = (
        "_drained",
        "_find_unit",
        "_last",
        "_listens",
        "_phase",
        "_received",
        "_reported_unsent",
        "_server",
        "_task",
        "_unanswered",
        "_unrecorded",
        "_who",
        "deadline",
        "peer",
        "ungranted",
    )

    def __init__(
        self,
        server: Host,
        accepted: socket.socket,
        peer: Peer | None,
        find_unit: Callable[[], Peer] | None,
        *,
        ungranted: bool,
    ) -> None:
        """Begin with a peer; ``find_unit`` returns it with its unit, None where that is known already.

        ``ungranted`` is the server's: whether no grant means the peer.
        """
        super().__init__(server.poll, accepted)
        self.peer = peer
        self._find_unit = find_unit
        self.ungranted = ungranted
        self.deadline = math.inf
        self._server: Final = server
        self._who = audit.caller(server.door.name, peer)
        self._phase = _Phase.IDLE
        self._received = b""
        self._last = False  # the connection ends with the next answer
        self._drained: asyncio.Future[None] | None = None  # a stream waits until all is sent
        self._task: asyncio.Task[None] | None = None
        self._listens = False  # the task is of no use to a caller that has closed its half
        self._unanswered: tuple[str, Record] | None = (
            None  # the request of the task, and its record without it
        )
        self._unrecorded: tuple[str, Record] | None = None  # an answer that waits for its record
        self._reported_unsent = 0  # bytes of an answer that the caller does not take at once

    def begin(self) -> None:
        """Wait for the first request; often it is there already."""
        self._arm(self._server.caller_limits.limits.idle_timeout)
        self.look()
        self.read(wanted=True)

    def on_deadline(self) -> None:
        """The deadline has passed: end an idle connection in order, any other at once."""
        if self._phase is _Phase.IDLE and not (self._received or self._last):
            self.close_gracefully()
        else:
            self.close()

    def close_gracefully(self) -> None:
        """End an idle connection; a request that has just come is the last one."""
        if self._phase is not _Phase.IDLE:
            return
        self._last = True
        self.shut(socket.SHUT_RD)  # what the caller sends from now on fails at its own end
        self._arm(self._server.caller_limits.limits.header_timeout)
        self.look()

    def close(self) -> None:
        """End at once, with what goes on for this caller."""
        if self.closed:
            return
        super().close()
        if self._task is not None:
            self._task.cancel()
        if self._unrecorded is not None:
            method, said = self._unrecorded
            audit.post(self._who, method, said._replace(reason="not-answered"))
            self._count(said)
        if self._unanswered is not None:
            self._record(*self._unanswered)
        self._leave_unsent(0)
        self._server.forget(self)

    def _arm(self, seconds: float) -> None:
        self.deadline = self._server.loop.time() + seconds
        self._server.expect(self.deadline)

    # What comes

    def received(self, data: bytes) -> None:
        """Take the next request from it, or keep it until the one before is answered."""
        if self._phase is _Phase.IDLE:
            begins = not self._received
            self._received += data
            if not self._take() and begins:
                self._arm(self._server.caller_limits.limits.header_timeout)
        elif self._phase is _Phase.BUSY:
            self._received += data
            self.read(wanted=not self._has_enough())

    def _has_enough(self) -> bool:
        return len(self._received) > self._server.caller_limits.limits.header_bytes

    def hung_up(self) -> None:
        """Close, unless there is an answer to what was asked: not for one who listened."""
        if self._phase is not _Phase.BUSY or self._listens:
            self.close()

    def _take(self) -> bool:
        """Take the first request, where it is all there, and have it answered."""
        try:
            end = http.head_end(self._received, self._server.caller_limits.limits.header_bytes)
            if not end:
                return False
            untrusted_head, self._received = self._received[:end], self._received[end:]
            request = http.parse(untrusted_head)
        except RequestError as error:
            self._begin_answer()
            self._say("?", _refusal("", error))
        else:
            self._begin_answer()
            self._last = self._last or request.closes
            self._answer(request)
        return True

    def _begin_answer(self) -> None:
        self._phase = _Phase.BUSY
        self.deadline = math.inf  # the door bounds how long it takes, _let_leave how long it is on its way

    # What is decided

    def _answer(self, request: http.Request) -> None:
        try:
            self._server.admit(request, self.peer)
            self._identify()
            said = self._server.door.answer(request, self.peer)
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets fixed text
            said = _refusal(request.path, error)
        self._go_by(request, said)

    def _go_by(self, request: http.Request, said: Said) -> None:
        """Write the answer, or wait for it."""
        if isinstance(said, Answer):
            self._say(request.method, said)
        else:
            unheard = said.unheard or Record("served", 204, request.path, {}, reason="not-answered")
            self._unanswered = request.method, unheard
            self._listens = said.for_listener
            self._task = self._server.loop.create_task(self._wait(request, said))
        if self._listens and self.ended:
            self.close()  # it had left before its turn came

    def _identify(self) -> None:
        """Look the caller's unit up once a grant names one: a reload may have brought it."""
        if self._find_unit is not None and self._server.door.wants_unit():
            self.peer, self._find_unit = self._find_unit(), None
            self._who = audit.caller(self._server.door.name, self.peer)

    async def _wait(self, request: http.Request, waiting: DeferredAnswer) -> None:
        said: Said
        try:
            said = await waiting.answer()
        except Exception as error:  # noqa: BLE001  # as in _answer
            said = _refusal(request.path, error)
        self._task, self._unanswered, self._listens = None, None, False
        self._go_by(request, said)

    def _say(self, method: str, answer: Answer) -> None:
        """Write the request's one audit record, then let the bytes leave."""
        if self._record(method, answer.record):
            self._leave(method, answer)
        else:
            self._unrecorded = method, answer.record
            self._task = self._server.loop.create_task(self._say_recorded(method, answer))

    async def _say_recorded(self, method: str, answer: Answer) -> None:
        """Wait for a place for the record; without one the request is refused."""
        recorded = await audit.written(self._who, method, answer.record)
        self._task = self._unrecorded = None
        if recorded:
            self._count(answer.record)
        else:
            problem = RequestError(AUDIT_UNAVAILABLE, audit.trouble() or "", retry_after=UNRECORDED_RETRY_S)
            answer = _refusal("", problem)
            self._server.traffic.unrecorded[self._server.door.name] += 1
            self._count(answer.record)
        self._leave(method, answer)

    def _leave(self, method: str, answer: Answer) -> None:
        self._last = self._last or answer.closes or answer.stream is not None or self._server.draining
        response = answer.response
        start = head(response, closes=self._last, streams=answer.stream is not None)
        if answer.stream is not None:
            self._listens = True
            self._task = self._server.loop.create_task(self._pour(start, answer.stream))
        elif self._let_leave(start, b"" if method == "HEAD" else response.body):
            self._answered(lingers=answer.closes)

    def _record(self, method: str, record: Record) -> bool:
        """Write and count a record; False where it could not be written now, so nothing may be served."""
        write = audit.post if self._server.door.records_may_wait else audit.write
        if not record.counts_only and not write(self._who, method, record):
            return False
        self._count(record)
        return True

    def _count(self, record: Record) -> None:
        traffic, door = self._server.traffic, self._server.door.name
        traffic.requests[door, record.outcome] += 1
        if record.names and record.outcome == "served":
            traffic.served(door, self.peer.uid if self.peer else None, record.names)

    # What leaves

    def sent(self) -> None:
        """Go on, once a slow reader has taken an answer."""
        self._leave_unsent(0)
        if self._drained is not None:
            self._drained.set_result(None)
        else:
            self._answered()

    def _let_leave(self, *parts: bytes) -> bool:
        """Send; where the caller reads too slowly, it has the idle time for the rest."""
        if self.send(*parts):
            return True
        if not self.closed:
            self._leave_unsent(sum(map(len, parts)))
            self._arm(self._server.caller_limits.limits.idle_timeout)
        return False

    def _leave_unsent(self, size: int) -> None:
        """Have the crowd know how much memory this caller keeps busy."""
        if size != self._reported_unsent:
            self._server.caller_limits.unsent(
                self.peer.uid if self.peer else -1, size - self._reported_unsent
            )
            self._reported_unsent = size

    async def _pour(self, start: bytes, stream: AsyncGenerator[bytes, None]) -> None:
        """Write a stream as fast as the caller reads it, until it ends or the caller has gone."""
        try:
            await self._send_all(start)
            async with contextlib.aclosing(stream):
                async for part in stream:
                    await self._send_all(part)
        finally:
            self._task = None
            self.close()

    async def _send_all(self, part: bytes) -> None:
        if not self._let_leave(part):
            self._drained = self._server.loop.create_future()
            await self._drained  # close() cancels the task
        self.deadline = math.inf

    def _answered(self, *, lingers: bool = False) -> None:
        """The answer has left: go on with what has come meanwhile, or end."""
        if self._last and not lingers:
            self.close()
        elif self._last:
            self._linger()
        elif self._received:
            self._server.loop.call_soon(self._go_on)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self.closed:
            return
        self._phase = _Phase.IDLE
        limits = self._server.caller_limits.limits
        if self._received and self._take():
            self.read(wanted=not self._has_enough())
        elif self.ended:
            self.close()
        else:
            self._arm(limits.header_timeout if self._received else limits.idle_timeout)
            self.read(wanted=True)

    def _linger(self) -> None:
        self._phase = _Phase.LINGERING
        self._received = b""
        self.shut(socket.SHUT_WR)
        self._arm(LINGER_S)
        self.read(wanted=True)
        if self.ended:
            self.close()


def _refusal(action: str, error: Exception) -> Answer:
    """Return the answer to a request that is refused or failed: fixed text, whatever went wrong."""
    if not isinstance(error, RequestError):
        # neither its text nor a traceback: they may hold values
        _log.error("a request failed with %s", type(error).__name__)
        error = RequestError(INTERNAL)
    record = refusal_record(action, error)
    return Answer(record, problem_response(error), closes=error.problem in NO_REQUEST)
