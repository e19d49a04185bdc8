"""Who is at the other end of a Unix socket, as the kernel noted it when the connection was made (unix(7))."""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import struct
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.core.access import Peer

_UCRED: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; Linux 4.13 and newer
_SO_PEERPIDFD: Final = 77
_GID_BYTES: Final = struct.calcsize("I")
_A_FEW_GROUPS: Final = 64
_MAX_GROUPS: Final = 65536  # NGROUPS_MAX
_NOBODY: Final = 0xFFFFFFFF  # what SO_PEERCRED says where there are no credentials


def of(connection: socket.socket) -> Peer | None:
    """Return the caller of a connection, or None where the kernel does not tell: then all is denied."""
    try:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return _peer(credentials, _groups(connection))
    except (OSError, struct.error):
        return None


def pin(pid: int) -> str | None:
    """Return what :func:`with_unit` needs, taken when the connection is made: a start time, or nothing.

    From Linux 6.5 on the socket itself stands for the very process that connected.
    """
    return None if _gives_pidfds() else _started(pid)


def with_unit(connection: socket.socket, peer: Peer, pinned: str | None) -> Peer:
    """Return the caller with its unit, at any moment of the connection; ``pinned`` is from :func:`pin`."""
    return replace(peer, unit=_unit(connection, peer.pid, pinned))


@functools.cache
def _gives_pidfds() -> bool:
    """Return whether this kernel has SO_PEERPIDFD (Linux 6.5)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError:
            return False
    return True


@functools.lru_cache(maxsize=64)  # an application that connects for each read has the same ones each time
def _peer(credentials: bytes, groups: bytes) -> Peer | None:
    """Return who has these credentials and supplementary groups, as the kernel tells them."""
    pid, uid, gid = _UCRED.unpack(credentials)
    if _NOBODY in (uid, gid):
        return None
    return Peer(pid, uid, gid, frozenset(struct.unpack(f"{len(groups) // _GID_BYTES}I", groups)) | {gid})


def _groups(connection: socket.socket) -> bytes:
    """Return the supplementary groups; getsockopt(2) is asked with room for a few first, then for all."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _A_FEW_GROUPS * _GID_BYTES)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
    return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS * _GID_BYTES)


def _unit(connection: socket.socket, pid: int, pinned: str | None) -> str | None:
    """Return the systemd unit of the process that connected, or None where it has ended or is in none.

    A pid may be given to another process while we look: a pidfd of the very process (SO_PEERPIDFD, Linux 6.5)
    tells afterwards whether it still lives; before 6.5 its start time must be the one of when it connected.
    """
    try:
        pidfd = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            return None  # it has ended and was waited for: its pid may be anybody's by now
        unit = unit_in(_read(pid, "cgroup"))
        return unit if pinned is not None and pinned == _started(pid) else None
    try:
        unit = unit_in(_read(pid, "cgroup"))
        poller = select.poll()  # select(2) takes no descriptor past 1023
        poller.register(pidfd, select.POLLIN)  # pidfd_open(2): readable as soon as the process has ended
        ended = bool(poller.poll(0))
    finally:
        os.close(pidfd)
    return None if ended else unit


def unit_in(cgroups: str) -> str | None:
    """Return the system unit of a ``/proc/PID/cgroup`` (cgroups(7)): the first component that is no slice.

    A user's own units are below ``user@UID.service``, which is what they count as: anybody may give them any
    name.
    """
    for line in cgroups.splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            parts = [part.removeprefix("_") for part in path.split("/") if part]
            return next((part for part in parts if not part.endswith(".slice")), None)
    return None


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """Return field 22 of ``/proc/PID/stat`` (proc(5)); the second may hold anything but is in parentheses."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else None  # noqa: PLR2004  # 22, less the two before the parenthesis
