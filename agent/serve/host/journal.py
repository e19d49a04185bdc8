"""Where audit records and log lines go: the journal's own socket under systemd, standard error elsewhere."""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from agent.serve.host.outbox import Outbox

SOCKET: Final = "/run/systemd/journal/socket"
SEND_BUFFER: Final = 8 * 1024 * 1024
"""What is asked for; the kernel gives as much as net.core.wmem_max says (socket(7))."""
_STDERR: Final = 2


def reads_us() -> bool:
    """Return whether the journal reads standard output or error, as JOURNAL_STREAM= says (systemd.exec(5)).

    The variable alone is no proof: whatever a service starts inherits it.
    """
    stream = os.environ.get("JOURNAL_STREAM", "")
    return bool(stream) and stream in {_identity(1), _identity(_STDERR)}


def _identity(fd: int) -> str:
    try:
        found = os.fstat(fd)
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


class JournalSocket:
    """The journal's native protocol. Not connected: each message goes to the socket that is there by then."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path: Final = path
        self._socket: Final = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        self._socket.settimeout(0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(self, message: bytes) -> None:
        """Send one entry, or raise OSError."""
        self._socket.sendto(message, self._path)


class StandardError:
    """Lines on a descriptor whose other users must not find it set to O_NONBLOCK: that is not ours alone."""

    def __init__(self, fd: int = _STDERR) -> None:
        self._fd: Final = fd
        self._poll: Final = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._is_torn = False

    def send(self, message: bytes) -> None:
        """Write one line, or raise OSError; one that was begun and could not be ended is cut off there.

        A pipe that can be written takes PIPE_BUF bytes without a wait (pipe(7)).
        """
        if self._is_torn:
            message = b"\n" + message
        for start in range(0, len(message), select.PIPE_BUF):
            if not self._poll.poll(0):
                raise BlockingIOError(0, "nobody reads standard error")
            os.write(self._fd, message[start : start + select.PIPE_BUF])
            self._is_torn = start + select.PIPE_BUF < len(message)


IS_JOURNAL: Final = reads_us()
OUTBOX: Final[Outbox[bytes]] = Outbox(JournalSocket() if IS_JOURNAL else StandardError())
