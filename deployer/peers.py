"""Who is at the other end of a Unix socket, as the kernel noted it when he connected (unix(7))."""

from __future__ import annotations

import pwd
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from common.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    from pathlib import Path

ROOT_UID: Final = 0
_UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_NOBODY: Final = 0xFFFFFFFF  # what SO_PEERCRED says where there are no credentials


class Ids(NamedTuple):
    """A process's user and group."""

    uid: int
    gid: int


def ids(connection: socket.socket) -> Ids | None:
    """Return whose process has connected; None where the kernel does not tell: all is denied then."""
    try:
        _, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except (OSError, struct.error):
        return None
    return None if _NOBODY in {uid, gid} else Ids(uid, gid)


def uids(path: Path, key: str, name: str | None) -> frozenset[int]:
    """Return the number of a user whom the configuration ``path`` names under ``key``; nobody's where none.

    Raises:
        ConfigurationError: this machine has no such user.
    """
    if name is None:
        return frozenset()
    try:
        return frozenset({pwd.getpwnam(name).pw_uid})
    except KeyError:
        pass
    raise ConfigurationError((Mistake(str(path), key, "is no user of this machine"),))
