"""Encryption by the command ``age``, through pipes: nothing that is secret touches a disk or an argument.

A backup is encrypted to public keys. The private ones are offline: the deployer never has one, so it can't
read its own backups, nor can whoever takes it over.
"""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

from deployer.core.backup_format import RefusedBackupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PROGRAM: Final = "age"
TIMEOUT_S: Final = 300.0
_RECIPIENT: Final = re.compile(r"age1[02-9ac-hj-np-z]{58}")


class EncryptionError(RefusedBackupError):
    """``age`` is missing, or did not do it."""


def encrypt(plain: bytes, recipients: Sequence[str]) -> bytes:
    """Return ``plain``, to be read with any of the private keys of these ``recipients`` (``age1…``).

    Raises:
        EncryptionError: a recipient is none, or ``age`` failed.
    """
    if not recipients or not all(_RECIPIENT.fullmatch(each) for each in recipients):
        raise EncryptionError("encrypt the backup: recipients are public keys of age, age1…, at least one")
    done = _run([f"--recipient={each}" for each in recipients], plain)
    if done.returncode:
        raise EncryptionError("encrypt the backup: age refused. Check the recipients with: age -r")
    return done.stdout


def decrypt(encrypted: bytes, identity: Path) -> bytes:
    """Return what was encrypted. ``identity`` is the file of the private key, which only ``age`` reads.

    Raises:
        RefusedBackupError: it is damaged, cut off, no file of age, or encrypted to other keys.
    """
    done = _run(["--decrypt", f"--identity={identity}"], encrypted)
    if not done.returncode:
        return done.stdout
    if b"no identity matched" in done.stderr:
        reason = "it is encrypted to other keys than this one. Name the identity that belongs to a recipient."
    elif b'error: reading "' in done.stderr:
        reason = "the file of the identity can't be read, or holds none."
    else:
        reason = "it is damaged, or cut off, or no file of age. Take another one."
    raise RefusedBackupError(f"the backup can't be decrypted: {reason}")


def _run(arguments: list[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    reason = ""
    try:
        return subprocess.run(  # noqa: S603  # arguments are public keys and the path of a file
            [PROGRAM, *arguments],
            input=given,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        reason = f"age did not end within {TIMEOUT_S:.0f} s."
    except OSError:
        reason = "the command age is missing. Install it: apt-get install age."
    raise EncryptionError(f"encrypt or decrypt a backup: {reason}")
