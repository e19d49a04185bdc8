"""``vps-secrets-let-in user:NAME group:NAME …``: further applications get as far as the application's socket.

systemd runs it as root after it has made the socket (a drop-in that ``vps-secrets setup --add`` writes), and
setup runs it once on the socket that is there: its group, its mode and whoever is connected stay as they are.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from pathlib import Path

from agent.core import acl
from common.places import APP_SOCKET


def main(arguments: list[str] | None = None) -> int:
    """Let each of them in; return 1 where one was unknown or the list could not be set."""
    users: set[int] = set()
    groups: set[int] = set()
    unknown = 0
    for word in sys.argv[1:] if arguments is None else arguments:
        kind, _, name = word.partition(":")
        try:
            if kind == "group":
                groups.add(grp.getgrnam(name).gr_gid)
            else:
                users.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            unknown = 1
            _say(f"there is no {kind} {name} on this machine: it does not get the socket")
    try:
        let_in(Path(APP_SOCKET), users, groups)
    except OSError as error:
        _say(f"{APP_SOCKET}: {error.strerror}: only the socket's own group gets it")
        return 1
    return unknown


def let_in(socket: Path, users: set[int], groups: set[int]) -> None:
    """Give these the right to connect besides those who have it.

    Raises:
        OSError: the socket is not there, or its file system has no access control lists.
    """
    entries = acl.of_mode(stat.S_IMODE(socket.lstat().st_mode))
    if acl.ATTRIBUTE in os.listxattr(socket, follow_symlinks=False):
        entries = acl.decode(os.getxattr(socket, acl.ATTRIBUTE, follow_symlinks=False)) or entries
    found = acl.encode(acl.with_callers(entries, users, groups))
    os.setxattr(socket, acl.ATTRIBUTE, found, follow_symlinks=False)


def _say(text: str) -> None:
    sys.stderr.write(f"vps-secrets-let-in: {text}\n")
