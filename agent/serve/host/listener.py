"""The Unix sockets of the doors: made with their final permissions, never taken from a running agent.

Also what is on the way to one, wherever it comes from.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.core import acl
from agent.core.reach import File
from agent.serve.host import accounts
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


def way_to(path: Path) -> tuple[File, ...] | None:
    """Return what a caller meets on the way to a socket, outermost directory first, itself last. May hang.

    None where it can't be told: this process may see less than its callers do (InaccessiblePaths=), an access
    control list of a directory says more than its mode, and a symbolic link leads elsewhere. The socket's own
    list is read: ``vps-secrets setup --add`` sets one.

    Raises:
        FileNotFoundError: the directory is there, and the socket is not.
    """
    try:
        inner = path.parent.resolve(strict=True)
        directories = [*reversed(inner.parents), inner]
        way = tuple(map(_file, directories))
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
        has_list = any(map(_list_of, directories))
        written = _list_of(path)
        entries = acl.decode(written)
    except FileNotFoundError:
        if path.parent.is_dir():
            raise
        return None
    except OSError:
        return None
    if not is_socket or has_list or (written and not entries):
        return None
    return (*way, replace(_file(path), entries=entries or ()))


def _list_of(path: Path) -> bytes:
    """Return the access control list as it is written, or nothing."""
    if acl.ATTRIBUTE not in os.listxattr(path, follow_symlinks=False):
        return b""
    return os.getxattr(path, acl.ATTRIBUTE, follow_symlinks=False)


def _file(path: Path) -> File:
    seen = path.lstat()
    owner, group = (
        accounts.name_of(accounts.USER, seen.st_uid),
        accounts.name_of(accounts.GROUP, seen.st_gid),
    )
    return File(str(path), stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, owner, group)


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
