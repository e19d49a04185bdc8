"""Whether a caller gets as far as the application's socket: what file permissions say, before any grant does.

Pure: the files were looked at elsewhere (agent/serve/host/listener.py). By path_resolution(7) and unix(7)
each directory on the way needs the right to search (x), and the socket the right to write (w).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.core import acl

if TYPE_CHECKING:
    from agent.core.access import Peer
    from agent.core.acl import Entry

SEARCH: Final = 0o1
WRITE: Final = 0o2
APP_GROUP: Final = "vps-secrets-app"
"""The group that the package makes for the application's socket (systemd/vps-secrets-agent.sysusers)."""
_ROOT: Final = 0
_EDIT: Final = (
    "with systemctl edit vps-secrets-app.socket, then systemctl restart vps-secrets-app.socket "
    "(without systemd's sockets: [app] in agent.toml)"
)


@dataclass(frozen=True, slots=True)
class File:
    """A directory on the way, or the socket at its end: ``mode`` are the permissions (0o7777 at most).

    ``owner`` and ``group`` are the names of ``uid`` and ``gid``, for people; the ids where they have none.
    ``entries`` are its access control list, where it has one: they decide then, not the mode.
    """

    path: str
    mode: int
    uid: int
    gid: int
    owner: str
    group: str
    entries: tuple[Entry, ...] = ()


def permits(peer: Peer, file: File, right: int) -> bool:
    """Return whether the file's permissions give ``peer`` this right; the first class that fits decides."""
    if peer.uid == _ROOT:
        return True
    if file.entries and peer.uid != file.uid:  # the owner's entry is in the mode
        return acl.permits(file.entries, right, (peer.uid, peer.groups), file.gid)
    return bool(file.mode >> _class_of(peer, file) & right)


def _class_of(peer: Peer, file: File) -> int:
    """Return where in the mode the bits of owner, group or others are."""
    if peer.uid == file.uid:
        return 6
    return 3 if file.gid in peer.groups else 0


def kept_out(peer: Peer, user: str, directories: tuple[File, ...], socket: File) -> str | None:
    """Return in one line what keeps this user from the socket, and what to do; None where nothing does.

    ``directories``: those above the socket, the outermost first.
    """
    for directory in directories:
        if not permits(peer, directory, SEARCH):
            letter = {6: "u", 3: "g", 0: "o"}[_class_of(peer, directory)]
            return f"no, {_shown(directory)} keeps user {user} out: chmod {letter}+x {directory.path}"
    if permits(peer, socket, WRITE):
        return None
    return f"no, {_shown(socket)} keeps user {user} out: {_remedy(peer, user, socket)}"


def _shown(file: File) -> str:
    more = ", and an access control list" if file.entries else ""
    return f"{file.path} (mode {file.mode:04o}, owner {file.owner}, group {file.group}{more})"


def _remedy(peer: Peer, user: str, socket: File) -> str:
    """Return what to do. Never to join the group root, whose members may read more than this socket."""
    if _class_of(peer, socket):
        return f"SocketMode=0660 {_EDIT}"
    if socket.gid == _ROOT or not socket.mode >> 3 & WRITE:
        return f"SocketGroup={APP_GROUP} and SocketMode=0660 {_EDIT}"
    return (
        f"usermod -aG {socket.group} {user} and a new start of its processes, "
        f"or SupplementaryGroups={socket.group} in its unit; or, of another application, "
        f"vps-secrets setup --add --user {user}"
    )
