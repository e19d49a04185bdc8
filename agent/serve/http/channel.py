"""A caller's socket: what comes is told, what is said leaves as fast as the caller reads.

Nobody else touches the socket. asyncio's transports and readers cost more for a connection than all else that
a read takes (docs/adr/0009), so all channels of a server share one epoll(7), which the event loop watches.
"""

from __future__ import annotations

import abc
import contextlib
import select
import socket
from typing import Final

CHUNK: Final = 16384
"""How many bytes are read at once."""


class Channel(abc.ABC):
    """A stream socket that is never waited for. ``ended`` tells that the other end has closed its half."""

    __slots__ = ("_poll", "_reading", "_socket", "_unsent", "_watched", "closed", "descriptor", "ended")

    def __init__(self, poll: select.epoll, accepted: socket.socket) -> None:
        """``poll``: whoever polls it calls :meth:`ready`."""
        self.descriptor: Final = accepted.fileno()
        self.ended = False
        self.closed = False
        self._poll: Final = poll
        self._socket: Final = accepted
        self._reading = False
        self._unsent: memoryview | None = None
        self._watched: int | None = None

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
            data = self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if data:
            self.received(data)
        else:
            self._reading, self.ended = False, True
            self.hung_up()
            self._watch()  # where it is not closed by now

    def ready(self, events: int) -> None:
        """Go on: there is something to read, room to write, or nobody at the other end."""
        if self._unsent is not None and events & ~select.EPOLLIN:
            self._send_on()
        elif self._reading and events & select.EPOLLIN:
            self.look()
        else:
            self.close()  # EPOLLHUP is told unasked: the other end is gone, not only its half

    def read(self, *, wanted: bool) -> None:
        """Have what comes told from now on, or leave it in the kernel."""
        self._reading = wanted and not self.ended
        self._watch()

    def _watch(self) -> None:
        if self.closed:
            return
        events = (select.EPOLLIN if self._reading else 0) | (select.EPOLLOUT if self._unsent else 0)
        if self._watched is None:
            self._poll.register(self.descriptor, events)
        elif events != self._watched:
            self._poll.modify(self.descriptor, events)
        self._watched = events

    def send(self, *parts: bytes) -> bool:
        """Send what the socket takes; False where the rest follows, or the connection is lost.

        Nothing more may be sent before :meth:`sent` was called.
        """
        try:
            count = self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            count = 0
        except OSError:
            self.close()
            return False
        if count == sum(map(len, parts)):
            return True
        self._unsent = memoryview(b"".join(parts))[count:]
        self._watch()
        return False

    def shut(self, how: int) -> None:
        """Close a half: SHUT_RD or SHUT_WR of shutdown(2)."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(how)

    def close(self) -> None:
        """Close at once; the kernel forgets that it was polled."""
        self.closed = True
        self._unsent = None
        self._socket.close()

    def _send_on(self) -> None:
        assert self._unsent is not None  # noqa: S101  # else nobody asks whether there is room
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self._unsent:
            self._unsent = None
            self._watch()
            self.sent()
