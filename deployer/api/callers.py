"""Who is calling, and which role that gives: by the kernel's word on a Unix socket, by certificate over TLS.

No credentials, or credentials that no rule names, are no role at all.
"""

from __future__ import annotations

import contextlib
import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deployer import peers
from deployer.config.model import Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deployer.config.model import RoleRule

_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; Linux 4.13 and newer
_GID: Final = struct.calcsize("I")
_ROOM: Final = 1024  # the most that Python's getsockopt takes: 256 groups
_SHORT: Final = {"commonName": "CN", "organizationalUnitName": "OU"}


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel noted it when it connected (unix(7))."""

    uid: int
    gids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Subject:
    """The names in a client's certificate, such as ``CN=portal``; TLS has checked it."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a role. ``name`` is what the history calls him."""

    name: str
    role: Role


def peer_of(connection: socket.socket) -> Peer | None:
    """Return the caller of a Unix socket, or None where the kernel does not tell."""
    found = peers.ids(connection)
    if found is None:
        return None
    groups = b""
    with contextlib.suppress(OSError):  # of more groups than that, none counts
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _ROOM)
    return Peer(found.uid, frozenset(struct.unpack(f"{len(groups) // _GID}I", groups)) | {found.gid})


def subject_of(certificate: Mapping[str, Any] | None) -> Subject | None:
    """Return the names of a certificate as Python's ssl gives it, or None where there is none."""
    if not certificate:
        return None
    names = {
        f"{_SHORT[key]}={value}"
        for part in certificate.get("subject", ())
        for key, value in part
        if key in _SHORT and value.isprintable()
    }
    return Subject(frozenset(names)) if names else None


class Roles:
    """The rules of deployer.toml with the ids of the users and groups that they name.

    :meth:`look_up` asks the machine's name service, which may be slow: not on the event loop.
    """

    def __init__(self, rules: Sequence[RoleRule]) -> None:
        self._rules: Final = tuple(rules)
        self._uids: Mapping[str, int] = {}
        self._gids: Mapping[str, int] = {}
        self.unknown: tuple[str, ...] = ()
        """Users and groups that rules name and the machine does not know."""

    def look_up(self) -> None:
        """Ask for every named user and group; an answer replaces the one before."""
        uids: dict[str, int] = {}
        gids: dict[str, int] = {}
        for rule in self._rules:
            with contextlib.suppress(KeyError):
                if rule.user:
                    uids[rule.user] = pwd.getpwnam(rule.user).pw_uid
                if rule.group:
                    gids[rule.group] = grp.getgrnam(rule.group).gr_gid
        named = [rule.user or rule.group for rule in self._rules if rule.user or rule.group]
        self.unknown = tuple(sorted({name for name in named if name and name not in {**uids, **gids}}))
        self._uids, self._gids = uids, gids

    def of_peer(self, peer: Peer | None) -> Role | None:
        """Return the highest role of a process on this machine; root is an operator."""
        if peer is None:
            return None
        if peer.uid == peers.ROOT_UID:
            return Role.OPERATOR
        return _highest(
            rule.role
            for rule in self._rules
            if (rule.user is not None and self._uids.get(rule.user) == peer.uid)
            or (rule.group is not None and self._gids.get(rule.group) in peer.gids)
        )

    def of_subject(self, subject: Subject | None) -> Role | None:
        """Return the highest role of a certificate."""
        if subject is None:
            return None
        return _highest(rule.role for rule in self._rules if rule.certificate in subject.names)


def name_of_peer(peer: Peer) -> str:
    """Return what the history calls a process: ``unix:NAME``, or its uid where that has no name."""
    try:
        return f"unix:{pwd.getpwuid(peer.uid).pw_name}"
    except KeyError:
        return f"unix:{peer.uid}"


def name_of_subject(subject: Subject) -> str:
    """Return what the history calls a certificate."""
    return f"tls:{','.join(sorted(subject.names))}"[:200]


def _highest(roles: Iterable[Role]) -> Role | None:
    return max(roles, default=None)
