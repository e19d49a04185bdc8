"""Who is at the other end of a Unix socket, as the kernel noted it when the connection was made (unix(7))."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Final

from agent.core.access import Peer

if TYPE_CHECKING:
    from asyncio import BaseTransport

_UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; Linux 4.13 and newer
_MOST_GROUPS: Final = 65536  # NGROUPS_MAX
_NOBODY: Final = 0xFFFFFFFF  # what SO_PEERCRED says where there are no credentials


def of(transport: BaseTransport) -> Peer | None:
    """Return the caller of a connection, or None where the kernel does not tell: then all is denied."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        return None
    try:
        pid, uid, gid = _UCRED.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        )
        groups = _groups(connection)
    except (OSError, struct.error):
        return None
    if _NOBODY in (uid, gid):
        return None
    return Peer(pid, uid, gid, groups | {gid})


def _groups(connection: socket.socket) -> frozenset[int]:
    """Return the supplementary groups; getsockopt(2) is asked with room for a few first, then for all."""
    size = struct.calcsize("I")
    for room in (64, _MOST_GROUPS):
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, room * size)
        except OSError as error:
            if error.errno == 34 and room != _MOST_GROUPS:  # noqa: PLR2004  # ERANGE: more groups than room
                continue
            raise
        return frozenset(struct.unpack(f"{len(raw) // size}I", raw))
    return frozenset()
