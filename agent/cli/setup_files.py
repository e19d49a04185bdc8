"""The agent's directory, changed as a whole: a draft beside it, and one exchange of the two.

Configuration and credential belong together: the id in one, its secret in the other. renameat2(2) with
RENAME_EXCHANGE swaps the directories at one instant, so a crash leaves both as they were or both new, and
the same call takes it back. Where a file system can't (a mount point of its own, some overlays), the two
files are renamed one right after the other.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/etc/vps-secrets-agent")
DRAFT: Final = Path("/etc/.vps-secrets-agent.setup")
CONFIGURATION: Final = "agent.toml"
CREDENTIAL: Final = "keystone-credential.cred"
_EXCHANGE: Final = 2  # RENAME_EXCHANGE in linux/fs.h
_AT_FDCWD: Final = -100
_CANNOT: Final = {errno.EBUSY, errno.EXDEV, errno.EINVAL, errno.ENOSYS}


def begin() -> None:
    """Make the draft: a copy of the directory, owners too. What an interrupted run has left is removed.

    Raises:
        OSError: it can't be written.
    """
    discard()
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    DRAFT.mkdir(mode=0o700)
    shutil.copytree(DIRECTORY, DRAFT, symlinks=True, copy_function=_copy, dirs_exist_ok=True)
    for directory, _, _ in os.walk(DRAFT):
        _own(DIRECTORY / Path(directory).relative_to(DRAFT), Path(directory))


def write(name: str, content: bytes, mode: int) -> None:
    """Write a file of the draft, which is on the disk when this returns."""
    path = DRAFT / name
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def exchange() -> None:
    """Swap the draft and the directory; a second call takes it back.

    Raises:
        OSError: nothing was changed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, bytes(DRAFT), _AT_FDCWD, bytes(DIRECTORY), _EXCHANGE):
        code = ctypes.get_errno()
        if code not in _CANNOT:
            raise OSError(code, os.strerror(code), str(DIRECTORY))
        _exchange_files()
    _sync(DIRECTORY.parent)


def discard() -> None:
    """Remove the draft, or what was in force before the exchange."""
    shutil.rmtree(DRAFT, ignore_errors=True)


def _exchange_files() -> None:
    """Swap the two files: everything that can fail comes before the first rename."""
    names = (CREDENTIAL, CONFIGURATION)
    staged = {name: DIRECTORY / f".{name}.setup" for name in names}
    former = {name: DRAFT / f".{name}.former" for name in names}
    try:
        for name in names:
            for source, target in ((DRAFT / name, staged[name]), (DIRECTORY / name, former[name])):
                target.unlink(missing_ok=True)
                if source.exists():
                    _copy(str(source), str(target))
        for name in names:
            _move(staged[name], DIRECTORY / name)
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)
    for name in names:
        _move(former[name], DRAFT / name)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)
    else:
        target.unlink(missing_ok=True)


def _copy(source: str, target: str) -> None:
    shutil.copy2(source, target, follow_symlinks=False)
    _own(Path(source), Path(target))


def _own(source: Path, target: Path) -> None:
    status, made = source.lstat(), target.lstat()
    if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):  # else it needs no privilege
        os.chown(target, status.st_uid, status.st_gid, follow_symlinks=False)
    if not target.is_symlink():
        target.chmod(status.st_mode & 0o7777)


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
