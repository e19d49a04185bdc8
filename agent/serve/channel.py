"""A caller's socket on the event loop: what comes is told, what is said leaves as fast as the caller reads.

Nobody else touches the socket. asyncio's transports cost more for each connection than all else that a read
takes (docs/adr/0009), and a connection that is accepted is not there yet for two turns of the loop.
"""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    import socket

CHUNK: Final = 16384
"""How many bytes are read at once."""


class Channel(abc.ABC):
    """A non-blocking stream socket. ``ended`` tells that the other end has closed its half."""

    __slots__ = ("_descriptor", "_reading", "_socket", "_unsent", "closed", "ended", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, accepted: socket.socket) -> None:
        self.loop: Final = loop
        self.ended = False
        self.closed = False
        self._socket: Final = accepted
        self._descriptor: Final = accepted.fileno()  # asyncio makes a repr of a socket that is new to it
        self._reading = False
        self._unsent: memoryview | None = None

    @abc.abstractmethod
    def received(self, data: bytes) -> None:
        """Something has come."""

    @abc.abstractmethod
    def hung_up(self) -> None:
        """The other end has closed its half."""

    @abc.abstractmethod
    def sent(self) -> None:
        """What could not be sent at once has left now."""

    def look(self) -> None:
        """Take what has come, if anything."""
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self.received(data)
        else:
            self.read(wanted=False)
            self.ended = True
            self.hung_up()

    def read(self, *, wanted: bool) -> None:
        """Have what comes told from now on, or leave it in the kernel."""
        if self._reading and not wanted:
            self._reading = False
            self.loop.remove_reader(self._descriptor)
        elif wanted and not (self._reading or self.ended or self.closed):
            self._reading = True
            self.loop.add_reader(self._descriptor, self.look)

    def send(self, *parts: bytes) -> bool:
        """Send what the socket takes; False where the rest follows, or the connection is lost.

        Nothing more may be sent before :meth:`sent` was called.
        """
        try:
            count = self._socket.sendmsg(parts)
        except BlockingIOError:
            count = 0
        except OSError:
            self.close()
            return False
        if count == sum(map(len, parts)):
            return True
        self._unsent = memoryview(b"".join(parts))[count:]
        self.loop.add_writer(self._descriptor, self._send_on)
        return False

    def shut(self, how: int) -> None:
        """Close a half: SHUT_RD or SHUT_WR of shutdown(2)."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def close(self) -> None:
        """Close at once."""
        self.read(wanted=False)
        self.closed = True
        if self._unsent is not None:
            self.loop.remove_writer(self._descriptor)
            self._unsent = None
        self._socket.close()

    def _send_on(self) -> None:
        assert self._unsent is not None  # noqa: S101  # else nobody asks whether there is room
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self._unsent = None
            self.loop.remove_writer(self._descriptor)
            self.sent()
