"""A directory that only this process and its children see, of memory that is never swapped (ramfs).

It lies in a mount namespace of its own (mount_namespaces(7)), which a user without privileges makes within a
user namespace (user_namespaces(7)) that maps this user to itself. Nothing has to be cleaned up: it ends with
the last process in it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import Final

from agent.run.errors import RunError

CLONE_NEWNS: Final = 0x00020000
CLONE_NEWUSER: Final = 0x10000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REC, MS_PRIVATE = 0x4000, 0x40000
PR_SET_DUMPABLE: Final = 4
_libc = ctypes.CDLL(None, use_errno=True)


def hide_from_debuggers() -> None:
    """No core file of this process and no ptrace(2) of it by its user; execve(2) of the command undoes it."""
    _libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def place(given: str | None, variables: dict[str, str]) -> Path:
    """Return the directory to cover, made if needed: ``given``, or in the unit's, the session's or /tmp.

    Raises:
        RunError: it can't be made, or belongs to somebody else.
    """
    base = variables.get("RUNTIME_DIRECTORY", "").partition(":")[0] or variables.get("XDG_RUNTIME_DIR")
    base = base or "/tmp"  # noqa: S108  # it must belong to this user; an empty directory until it is covered
    directory = Path(given) if given else Path(base) / f"vps-secrets-run-{os.geteuid()}"
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise RunError(f"{directory}: {error.strerror}; choose another one with --directory") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise RunError(f"{directory}: not a directory of this user; choose another one with --directory")
    return directory


def cover(directory: Path) -> None:
    """Enter a namespace of one's own and mount a ramfs over a directory. Before the first thread.

    Raises:
        RunError: the kernel, or the sandbox of the unit, does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    private = CLONE_NEWNS if uid == 0 else CLONE_NEWNS | CLONE_NEWUSER
    if _libc.unshare(private):
        raise RunError(_refused("make a namespace"))
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    _mount(b"none", b"/", None, MS_REC | MS_PRIVATE)
    _mount(b"ramfs", bytes(directory), b"ramfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    directory.chmod(0o700)


def write(directory: Path, files: dict[str, bytes], mode: int, owner: tuple[int, int] | None) -> None:
    """Write each file whole or not at all, and remove those that are not there any more."""
    for name, content in files.items():
        draft = directory / f".{name}.new"
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if owner:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
        draft.rename(directory / name)
    if owner:
        os.chown(directory, *owner)
    for former in directory.iterdir():
        if former.name not in files:
            former.unlink()


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source, target, kind, flags, None):
        raise RunError(_refused("mount memory"))


def _refused(what: str) -> str:
    number = ctypes.get_errno()
    why = (
        "the unit (RestrictNamespaces=, SystemCallFilter=), the kernel (user.max_user_namespaces) or "
        "AppArmor (Ubuntu 24.04) does not allow it"
        if number in {errno.EPERM, errno.EACCES, errno.ENOSPC, errno.ENOSYS}
        else os.strerror(number)
    )
    return f"--files can't {what}: {why}; a systemd unit gets files by LoadCredential= (vps-secrets-agent(8))"
