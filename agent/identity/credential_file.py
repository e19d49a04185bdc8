"""Files that only this machine can decrypt: systemd-creds(1) encrypts, and one rename puts each in force.

What is encrypted goes through pipes: never an argument, the environment, or a disk in the clear. A file is
complete and on the disk before it has its name, so a crash leaves the former one or the new one, whole.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Final

from agent.identity import ciphertext
from agent.identity.errors import CredentialFileError

DIRECTORY: Final = Path("/etc/vps-secrets-agent")
SUFFIX: Final = ".cred"
KEYSTONE_CREDENTIAL: Final = "keystone-credential"
ACCOUNT_PASSWORD: Final = "account-password"  # noqa: S105  # a name
SEALING_KEY: Final = "sealing-key"
MODE: Final = 0o600
_PROGRAM: Final = "systemd-creds"
_ENVIRONMENT: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_TIMEOUT_S: Final = 60.0  # a TPM2 may be slow


def path_of(name: str, directory: Path = DIRECTORY) -> Path:
    """Return the file of a credential."""
    return directory / f"{name}{SUFFIX}"


def write(name: str, secret: bytes, directory: Path = DIRECTORY) -> ciphertext.Bound:
    """Encrypt and put in force; return what it is bound to.

    Raises:
        CredentialFileError: it can't be encrypted or written; the former one stays.
    """
    encrypted = encrypt(name, secret)
    put(path_of(name, directory), encrypted)
    return ciphertext.bound_to(encrypted)


def encrypt(name: str, secret: bytes) -> bytes:
    """Return it encrypted for this machine and this name.

    Raises:
        CredentialFileError: systemd-creds failed, or would encrypt with no key.
    """
    encrypted = _run(["encrypt", f"--name={name}", "-", "-"], f"encrypt {name}", secret)
    if not ciphertext.bound_to(encrypted).safe:
        raise CredentialFileError(f"encrypt {name}: systemd-creds has no key, so anybody could read it")
    return encrypted


def read(name: str, directory: Path = DIRECTORY) -> bytes | None:
    """Return what a credential holds, or None where there is none.

    Raises:
        CredentialFileError: it is there and can't be decrypted: it is another machine's, or damaged.
    """
    path = path_of(name, directory)
    if not path.exists():
        return None
    return _run(["decrypt", f"--name={name}", str(path), "-"], f"decrypt {path}", b"")


def put(path: Path, content: bytes, mode: int = MODE) -> None:
    """Write a file, by a draft beside it and one rename; it is on the disk when this returns.

    Raises:
        CredentialFileError: it can't be written; what was there stays.
    """
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    else:
        return
    raise CredentialFileError(f"write {path}: {reason}")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(arguments: list[str], step: str, given: bytes) -> bytes:
    """Run systemd-creds and return its output; where it fails its last line is shown, which names files."""
    reason = ""
    try:
        done = subprocess.run(  # noqa: S603  # our own words and paths, no shell
            [_PROGRAM, *arguments],
            input=given,
            capture_output=True,
            check=False,
            env=_ENVIRONMENT,
            timeout=_TIMEOUT_S,
        )
    except OSError as error:
        reason = f"{_PROGRAM}: {error.strerror}"
    except subprocess.TimeoutExpired:  # it holds what was read so far
        reason = f"{_PROGRAM}: no answer in {_TIMEOUT_S:.0f} s"
    else:
        if done.returncode == 0:
            return done.stdout
        words = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = "".join(words) or f"{_PROGRAM}: exit status {done.returncode}"
    raise CredentialFileError(f"{step}: {ascii(reason)[1:-1]}")
