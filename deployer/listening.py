"""A Unix socket of the deployer's own, with its group and mode from the first moment on.

Under systemd its socket unit makes it and hands it over (sd_listen_fds(3)).
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from pathlib import Path

BACKLOG: Final = 1024
FIRST_FD: Final = 3
_ALL: Final = 0o777


class ListenError(VpsSecretsError):
    """A socket can't be opened; the text says which, why, and what to do."""


def unix(path: Path, group: str | None, mode: int) -> tuple[socket.socket, bool]:
    """Return a listening socket, and whether it is ours to remove: systemd's stays.

    Raises:
        ListenError: it can't be made, its group is unknown, or another process listens there.
    """
    handed = _handed_over()
    if handed is not None:
        return handed, False
    _clear(path)
    found = socket.socket(socket.AF_UNIX)
    # the mode is there from the first moment: a mode that is set afterwards leaves a gap
    umask = os.umask(_ALL & ~mode)
    reason = ""
    try:
        found.bind(str(path))
        if group is not None:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        found.listen(BACKLOG)  # nobody can connect before this
    except KeyError:
        reason = f"there is no group {group}"
    except OSError as error:
        reason = str(error.strerror)
    finally:
        os.umask(umask)
    if reason:
        found.close()
        with contextlib.suppress(OSError):
            path.unlink()
        raise ListenError(f"the socket {path} can't be opened: {reason}; see deployer.toml")
    return found, True


def _handed_over() -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=FIRST_FD)


def _clear(path: Path) -> None:
    """Remove the socket of a process that has ended; nothing else."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ListenError(f"{path} is no socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        alive = not probe.connect_ex(str(path))
    if alive:
        raise ListenError(f"another process listens at {path}; end it first")
    path.unlink()
