"""What goes to systemd (sd_notify(3)): readiness, status, watchdog, descriptors. Without it, nothing.

Nothing here waits for systemd: what its socket has no room for is sent later (agent/serve/host/outbox.py).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import sys
import time
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.serve.host.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

STATUS_EVERY_S: Final = 15.0
"""How old the line that ``systemctl status`` shows may be."""

_log: Final = logging.getLogger("agent.systemd")


_NO_ROOM: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class Notice(NamedTuple):
    """A message, and the descriptor that goes with it."""

    text: str
    fd: int | None = None


class NotifySocket:
    """The socket of NOTIFY_SOCKET=. What it does not take for good is lost: systemd tells nobody either."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self.is_there: Final = bool(address)
        self._address: Final = f"\0{address[1:]}" if address.startswith("@") else address
        if self.is_there:
            self._socket: Final = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(0)
            weakref.finalize(self, self._socket.close)  # it is closed with its owner

    def send(self, message: Notice) -> None:
        """Send a notice; BlockingIOError where there is no room for it now."""
        if not self.is_there:
            return
        # send_fds() takes no address, whatever its signature says
        rights = [] if message.fd is None else [_rights(message.fd)]
        try:
            self._socket.sendmsg([message.text.encode()], rights, 0, self._address)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise BlockingIOError(error.errno, error.strerror) from None


def _rights(fd: int) -> tuple[int, int, bytes]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, sys.byteorder)


class Systemd:
    """Owns what has been sent so far."""

    def __init__(self) -> None:
        self._outbox: Final = Outbox(NotifySocket())
        self._ready = False
        self._reloading = False

    def cycle_ended(self, status: str) -> None:
        """Tell the status; and that the start, or a reload, is over (docs/adr/0005)."""
        lines = [f"STATUS={status}"]
        if not self._ready or self._reloading:
            lines.append("READY=1")
            self._ready, self._reloading = True, False
        self._outbox.post(Notice("\n".join(lines)))

    def waiting(self, status: str) -> None:
        """Tell that there is nothing to do until somebody acts: the start is over."""
        self._outbox.post(Notice(f"STATUS={status}\nREADY=1"))

    def reloading(self) -> None:
        """Tell that a reload has begun; it ends with the next cycle."""
        if self._ready:
            self._reloading = True
            self._outbox.post(Notice(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"))

    def stopping(self) -> None:
        """Tell that the agent ends."""
        self._outbox.post(Notice("STOPPING=1\nSTATUS=stopped"))

    async def beat(self, status: Callable[[], str], is_stuck: Callable[[], bool] = lambda: False) -> None:
        """Show that the work goes on, twice as often as asked for, and keep the status line true; never ends.

        The line has ages, so it would be wrong soon after it was sent. Nothing else wakes an idle agent, so
        ``status`` may also do what must be done now and then. While ``is_stuck``, the watchdog is not fed, so
        that systemd ends this process.
        """
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        if not microseconds.isdecimal():
            await asyncio.Event().wait()
        every = min(int(microseconds) / 2_000_000, STATUS_EVERY_S)
        while True:
            line = f"STATUS={status()}"
            if is_stuck():
                _log.error(
                    "the refresher is stuck, report this bug; systemd's watchdog starts the agent again"
                )
            else:
                line = f"WATCHDOG=1\n{line}"
            self._outbox.send(Notice(line))
            await asyncio.sleep(every)
