"""The secret part of the Keystone credential: from systemd, from a file, or from a descriptor.

Never from the command line or the environment. A file that anyone but its owner can read is refused, and so
is whatever is not a regular file. Nothing of the content goes into an error.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from agent.core.errors import CloudError, Failure, Fault, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import CredentialSource

_MAX_BYTES: Final = 64 * 1024
_NOT_LOADED: Final = (
    "systemd has not put it into $CREDENTIALS_DIRECTORY: if a drop-in resets LoadCredential= (images for LXC "
    "have one; systemctl cat vps-secrets-fetch@ shows it), put LoadCredentialEncrypted="
    "keystone-credential:/etc/vps-secrets-agent/keystone-credential.cred below [Service] in "
    "/etc/systemd/system/vps-secrets-fetch@.service.d/zzzz-credential.conf, and run systemctl daemon-reload"
)


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file's content, and why it is not private (None: only its owner can read it)."""

    content: bytes = field(repr=False)
    exposed: str | None


def read_secret(source: CredentialSource, environ: Mapping[str, str]) -> str:
    """Return the credential's secret part, without the newline that editors put at the end.

    Raises:
        CloudError: it can't be read, is empty, is no text, or others can read it (step credential).
    """
    where, file = _open(source, environ)
    if file.exposed:
        refuse(where, f"{file.exposed}; make it readable for its owner only (chmod 0400)")
    try:
        secret = file.content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        secret = ""
    if not secret:
        refuse(where, "it must hold the secret part as UTF-8 text; it is empty or not text")
    return secret


def read_file(path: Path, *, from_systemd: bool = False) -> PrivateFile:
    """Return a file of at most 64 KiB and whether it is private.

    systemd gives a credential to its unit by an ACL on a file of root's, and the ACL's mask shows as the
    group's permission (0440 root:root): ``from_systemd`` lets that one mode pass.

    Raises:
        CloudError: it can't be read, is too large or not a regular file (step credential).
    """
    problem = ""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes must not hang; a regular file is not affected
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        problem = (isinstance(error, OSError) and error.strerror) or "not a path"
    if problem:
        refuse(f"read {path}", f"check that it exists and that this program's user can read it ({problem})")
    try:
        return _read(descriptor, f"read {path}", from_systemd=from_systemd)
    finally:
        os.close(descriptor)


def refuse(tried: str, advice: str) -> NoReturn:
    """Raise the failure of this step."""
    raise CloudError(Failure(Step.CREDENTIAL, Fault.TRANSIENT, tried, advice))


def _open(source: CredentialSource, environ: Mapping[str, str]) -> tuple[str, PrivateFile]:
    if source.fd is not None:
        where = f"read descriptor {source.fd}"
        return where, _read(source.fd, where)
    if source.file is not None:
        return f"read {source.file}", read_file(source.file)
    where = f"read credential {source.name}"
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory or source.name is None or not (Path(directory) / source.name).exists():
        refuse(where, _NOT_LOADED.replace("keystone-credential", source.name or "keystone-credential"))
    return where, read_file(Path(directory) / source.name, from_systemd=True)


def _read(descriptor: int, where: str, *, from_systemd: bool = False) -> PrivateFile:
    """Read from the start whatever the offset, so that a descriptor can be read in every cycle."""
    problem = ""
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            content = os.pread(descriptor, _MAX_BYTES + 1, 0)
        else:
            problem = "it must be a regular file; a pipe or directory is not"
    except OSError as error:
        problem = f"it can't be read ({error.strerror})"
    if problem:
        refuse(where, problem)
    if len(content) > _MAX_BYTES:
        refuse(where, f"it is larger than {_MAX_BYTES} bytes, so it is not the file meant")
    by_acl = (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o440, 0, 0)
    return PrivateFile(content, None if from_systemd and by_acl else _exposed(status))


def _exposed(status: os.stat_result) -> str | None:
    """Tell who else can read a file by its mode; without a name (memfd, unlinked) others can't open it."""
    if status.st_nlink == 0:
        return None
    if status.st_mode & stat.S_IRWXO:
        return "others can read or write it"
    if status.st_mode & stat.S_IRWXG:
        return "its group can read or write it"
    return None
