"""What leaves for the journal, standard error or systemd: in order, and without a wait on the event loop.

A sink takes a message at once or refuses it. What was refused waits here, within bounds, and is tried again
until the sink takes it. With nothing in it an outbox wakes nobody.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from agent.serve.host import clock

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S: Final = 2.0
"""How long a message may wait that somebody waits for; a journald that is restarted takes less."""
RETRY_S: Final = 0.01
RETRY_LATER_S: Final = 1.0
"""When to try again: soon, and after :data:`PATIENCE_S` now and then."""
MAX_POSTED: Final = 1000

T = TypeVar("T")
U_contra = TypeVar("U_contra", contravariant=True)


class Sink(Protocol[U_contra]):
    """What takes messages."""

    def send(self, message: U_contra) -> None:
        """Take a message, whole.

        Raises:
            OSError: it takes none now; BlockingIOError where it has no room.
        """
        ...


class Outbox(Generic[T]):
    """The messages for one sink, which since ``refused_since`` (boot clock, s) takes none, for ``reason``."""

    def __init__(self, sink: Sink[T]) -> None:
        self.refused_since: float | None = None
        self.reason = ""
        self.lost = 0
        """Posted messages for which there was no place."""
        self._sink: Final = sink
        self._waiting: Final[collections.deque[_Waiting[T]]] = collections.deque()
        self._posted = 0
        self._timer: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    @property
    def fails(self) -> bool:
        """Return whether the sink has taken nothing for longer than a hiccup lasts."""
        return self._patience() <= 0

    def send(self, message: T) -> bool:
        """Send a message now, after all that waits, or not at all; return whether it was sent."""
        self._flush()
        return not self._waiting and self._try(message)

    def post(self, message: T) -> bool:
        """Send a message, or keep it until it can be sent; False where there is no place for it."""
        if self.send(message):
            return True
        if self._posted >= MAX_POSTED:
            self.lost += 1
            return False
        self._posted += 1
        self._waiting.append(_Waiting(message, None))
        self._retry_later()
        return True

    async def deliver(self, message: T) -> bool:
        """Send a message, waiting for a while; return whether it was sent. It is not sent after that."""
        if self.send(message):
            return True
        patience = self._patience()
        if patience <= 0:
            return False
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(message, sent)
        self._waiting.append(waiting)
        self._retry_later()
        try:
            async with asyncio.timeout(patience):
                await sent
        except TimeoutError:
            return not sent.cancelled()
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiting)
        return True

    def withdraw(self, unwanted: Callable[[T], bool]) -> bool:
        """Forget posted messages that have not been sent; return whether there were any."""
        found = [one for one in self._waiting if one.sent is None and unwanted(one.message)]
        for one in found:
            self._waiting.remove(one)
            self._posted -= 1
        return bool(found)

    def close(self, seconds: float = 0.5) -> None:
        """Send what waits, for so long at most. Not on a loop that serves: this waits."""
        end = time.monotonic() + seconds
        while self._waiting and time.monotonic() < end:
            self._flush()
            time.sleep(RETRY_S)

    def _patience(self) -> float:
        return PATIENCE_S if self.refused_since is None else self.refused_since + PATIENCE_S - clock.boot()

    def _try(self, message: T) -> bool:
        try:
            self._sink.send(message)
        except OSError as error:
            if self.refused_since is None:
                self.refused_since = clock.boot()
            self.reason = error.strerror or type(error).__name__
            return False
        self.refused_since = None
        return True

    def _flush(self) -> None:
        while self._waiting and self._try(self._waiting[0].message):
            sent = self._waiting.popleft().sent
            if sent is None:
                self._posted -= 1
            elif not sent.done():
                sent.set_result(None)

    def _retry_later(self) -> None:
        """Set the timer, where a loop runs; where none does, the next message is the occasion."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if self._timer is None or self._timer[0] is not loop:
            delay = RETRY_LATER_S if self.fails else RETRY_S
            self._timer = loop, loop.call_later(delay, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._flush()
        if self._waiting:
            self._retry_later()


class _Waiting(Generic[T]):
    """A message, and whom to tell when it is sent; equal to itself only."""

    __slots__ = ("message", "sent")

    def __init__(self, message: T, sent: asyncio.Future[None] | None) -> None:
        self.message: Final = message
        self.sent: Final = sent
