"""The Unix sockets of the doors: made with their final permissions, never taken from a running agent."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BACKLOG: Final = 1024
"""Connections that wait to be accepted, in listen(2)."""


class ListenError(VpsSecretsError):
    """A socket could not be made; the text tells why and what to do."""


@contextlib.contextmanager
def listening(path: Path, mode: int, gid: int | None) -> Iterator[socket.socket]:
    """Listen on ``path`` with these permissions; it is removed at the end.

    Raises:
        ListenError: the path is in use, or the directory does not allow it.
    """
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            former = os.umask(0o177)  # nobody else may connect before the permissions are final
            try:
                listener.bind(str(path))
            finally:
                os.umask(former)
            if gid is not None:
                os.chown(path, -1, gid)
            path.chmod(mode)
            listener.listen(BACKLOG)
        except OSError as error:
            hint = f"{path.parent} must exist, and this user must be allowed to write it"
            raise ListenError(f"can't listen on {path}: {error.strerror}; {hint}") from None
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            path.unlink()


def _clear(path: Path) -> None:
    """Remove the socket of an agent that is gone; refuse anything else that is there."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return
    if not is_socket:
        raise ListenError(f"can't listen on {path}: there is something that is not a socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with contextlib.suppress(OSError):
                path.unlink()
            return
        except OSError as error:
            raise ListenError(f"can't listen on {path}: {error.strerror}") from None
    raise ListenError(f"can't listen on {path}: another agent is serving there; stop it first")
