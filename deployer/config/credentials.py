"""Reading a credential: from where systemd puts it for a unit, or from a file that is its owner's alone."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deployer.config.model import Credential

MAX_BYTES: Final = 1024 * 1024
FOLDER: Final = Path("/etc/vps-secrets-deployer/credentials")
"""Where the package's units have them from, each encrypted by systemd-creds(1)."""
DIRECTORY: Final = "CREDENTIALS_DIRECTORY"
"""systemd.exec(5)."""


class CredentialError(VpsSecretsError):
    """A credential can't be used; the text says which and why, never what is in it."""


def read(credential: Credential, environ: Mapping[str, str]) -> bytes:
    """Return a credential, without the newline that editors put at the end.

    Raises:
        CredentialError: it is not there, can't be read, is empty or too large, or others can read it.
    """
    if credential.file is not None:
        return _read(credential.file, from_systemd=False)
    folder = environ.get(DIRECTORY)
    if folder:
        return _read(Path(folder) / str(credential.name), from_systemd=True)
    encrypted = FOLDER / f"{credential.name}.cred"
    if os.geteuid() == 0 and encrypted.exists():
        return _decrypted(str(credential.name), encrypted)
    raise CredentialError(
        f"read the credential {credential.name}: {DIRECTORY} is not set: systemd gives it to its unit only. "
        f"Elsewhere root can decrypt {encrypted}, or name a file in the configuration"
    )


def _decrypted(name: str, encrypted: Path) -> bytes:
    """Return what root decrypts: a command typed by hand needs what units are given. It comes by a pipe."""
    command = ["systemd-creds", "decrypt", f"--name={name}", str(encrypted), "-"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603
    except OSError:
        reason = "systemd-creds can't be run"
    else:
        if done.returncode == 0:
            return _content(encrypted, done.stdout)
        reason = "systemd-creds can't decrypt it: was it encrypted on this machine, by this name?"
    raise CredentialError(f"read {encrypted}: {reason}")


def _read(path: Path, *, from_systemd: bool) -> bytes:
    problem = ""
    try:
        # O_NONBLOCK: opening a FIFO that nobody writes must not hang; a regular file is not affected
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            problem = _problem(status, from_systemd=from_systemd)
            content = file.read(MAX_BYTES + 1) if not problem else b""
    except OSError as error:
        problem = error.strerror or "it can't be read"
    if problem:
        raise CredentialError(f"read {path}: {problem}")
    return _content(path, content)


def _content(path: Path, content: bytes) -> bytes:
    content = content.rstrip(b"\r\n")
    if not content or len(content) > MAX_BYTES:
        raise CredentialError(f"read {path}: it is empty, or larger than {MAX_BYTES} bytes")
    return content


def _problem(status: os.stat_result, *, from_systemd: bool) -> str:
    """Tell what is wrong with a file, "" for nothing.

    systemd gives a credential to its unit by an ACL on a file of root's, and the ACL's mask shows as the
    group's permission: 0440 root:root.
    """
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    by_acl = (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o440, 0, 0)
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and not (from_systemd and by_acl):
        return "others can read or write it; make it readable for its owner only (chmod 0400)"
    return ""
