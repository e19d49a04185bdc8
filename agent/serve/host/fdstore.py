"""What systemd hands over at start, and what it keeps for the next start: sockets and memory files.

Sockets arrive as sd_listen_fds(3) says, by name. Memory files go to the unit's descriptor store
(FDSTORE=1 in sd_notify(3), FileDescriptorStoreMax= in systemd.service(5)) and come back the same way after a
crash, a restart or an upgrade; ``systemctl stop`` drops them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.serve.host.notify import Notice, NotifySocket
from agent.serve.host.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST: Final = 3
"""SD_LISTEN_FDS_START."""
CHECK_TIMEOUT_S: Final = 5.0
LATE_S: Final = 1.0
"""How long a refusal is waited for: systemd 254 and later close what they refuse in a thread of their own."""
PROBE: Final = "probe"
ABSENT: Final = "systemd's descriptor store is absent or full (FileDescriptorStoreMax=)"

_log: Final = logging.getLogger("agent.systemd")


@dataclass(frozen=True, slots=True)
class Inherited:
    """``sockets`` by name; ``kept`` are (name, descriptor) of all else, each to be adopted or closed."""

    sockets: dict[str, socket.socket] = field(default_factory=dict)
    kept: tuple[tuple[str, int], ...] = ()


def inherit() -> Inherited:
    """Take over what systemd passed to this process; a second call returns nothing."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return Inherited()
    sockets: dict[str, socket.socket] = {}
    kept = []
    for fd in range(FIRST, FIRST + int(count)):
        name = names[fd - FIRST] if fd - FIRST < len(names) else ""
        os.set_inheritable(fd, False)  # noqa: FBT003  # os's own signature
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sockets[name] = socket.socket(fileno=fd)
            sockets[name].settimeout(0.0)
        else:
            kept.append((name, fd))
    return Inherited(sockets, tuple(kept))


class DescriptorStore:
    """This unit's descriptor store. Without systemd nothing is kept.

    ``works`` is None until :meth:`check` has asked, and may become False within ``LATE_S`` after that.
    """

    def __init__(self) -> None:
        notify = NotifySocket()
        self._outbox: Final = Outbox(notify)
        self.works: bool | None = None if notify.is_there else False
        self._late: Final = contextlib.ExitStack()

    def keep(self, name: str, fd: int) -> None:
        """Have systemd keep a duplicate of the descriptor, under a name that is not in use yet.

        The descriptor must stay open until :meth:`drop`.
        """
        self._outbox.post(_stored(name, fd))

    def drop(self, name: str) -> None:
        """Have systemd close what it keeps under the name."""
        begin = _stored(name, 0).text
        if not self._outbox.withdraw(lambda notice: notice.text == begin):
            self._outbox.post(Notice(f"FDSTOREREMOVE=1\nFDNAME={name}"))

    def close(self) -> None:
        """Send what could not be sent so far; this may wait for a moment."""
        self._late.close()
        self._outbox.close()

    async def check(self) -> None:
        """Find out whether systemd keeps what it is given: it tells nobody when it does not.

        A pipe's end that systemd refuses is closed, which the other end shows: at once, or within
        ``LATE_S``, for which nobody waits. What was sent before fitted in if this one did.
        """
        if self.works is False:
            return
        self.works = False
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            kept, handled = _Pipe(self._late), _Pipe(stack)
            self._late.callback(self.drop, PROBE)
            probe = _stored(PROBE, kept.take())
            barrier = Notice("BARRIER=1", handled.take())  # closed once all before is handled (sd_notify(3))
            if await self._outbox.deliver(probe) and await self._outbox.deliver(barrier):
                self.works = await handled.closed(CHECK_TIMEOUT_S) and not kept.is_closed()
        if self.works:
            loop = asyncio.get_running_loop()
            self._late.callback(kept.when_closed(self._refused))
            self._late.callback(loop.call_later(LATE_S, self._late.close).cancel)
        else:
            self._late.close()

    def _refused(self) -> None:
        self.works = False
        _log.warning("a restart will read everything from Barbican again: %s", ABSENT)
        self._late.close()


def _stored(name: str, fd: int) -> Notice:
    return Notice(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fd)


class _Pipe:
    """A pipe whose writing end is given away."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._reader, self._writer = os.pipe()
        stack.callback(os.close, self._reader)
        stack.callback(self._close_writer)
        self._open = True

    def take(self) -> int:
        """Return the writing end; it is closed here when :meth:`closed` or :meth:`is_closed` is asked."""
        return self._writer

    def _close_writer(self) -> None:
        if self._open:
            os.close(self._writer)
            self._open = False

    def is_closed(self) -> bool:
        """Return whether nobody holds the writing end any more."""
        self._close_writer()
        poll = select.poll()
        poll.register(self._reader, 0)
        return bool(poll.poll(0))

    async def closed(self, seconds: float) -> bool:
        """Wait until nobody holds the writing end any more; False when the time is up."""
        self._close_writer()
        event = asyncio.Event()
        forget = self.when_closed(event.set)
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return False
        finally:
            forget()
        return True

    def when_closed(self, call: Callable[[], None]) -> Callable[[], object]:
        """Have ``call`` called once nobody holds the writing end any more; return what forgets it."""
        loop, reader = asyncio.get_running_loop(), self._reader
        loop.add_reader(reader, call)
        return lambda: loop.remove_reader(reader)
