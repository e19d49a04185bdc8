"""Who wrote a backup: an Ed25519 signature inside what is encrypted.

Encryption tells nobody who encrypted: the recipients are public. Without a signature, whoever can write where
the backups lie could have the deployment restored to what he likes. The private key is the deployer's, in a
file of its own; the public one is noted down beside the offline identity, and asked for when restoring.

The form: ``vps-secrets-backup 1 SIGNATURE`` (base64url) on a line, then what is signed, to its last byte.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deployer.backup import files
from deployer.core.backup_format import FORMAT, RefusedBackupError

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = f"{FORMAT} 1 ".encode()
KEY_BYTES: Final = 32
FILE_MODE: Final = 0o600
# What is signed begins with its purpose, so that no other signature of this key could be taken for one.
_PURPOSE: Final = b"vps-secrets-deployer backup\n"


class Signer:
    """Signs with a private key, which it never shows."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key: Final = key

    @property
    def public(self) -> str:
        """Return the public key, to be noted down: 43 characters of base64url."""
        return _text(self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def sign(self, content: bytes) -> bytes:
        """Return the content with its signature before it."""
        return HEAD + _text(self._key.sign(_PURPOSE + content)).encode() + b"\n" + content


def signer(path: Path) -> Signer:
    """Return the signer whose key is in this file, which is made where there is none, for its owner only.

    One that root makes belongs to the owner of the folder.

    Raises:
        RefusedBackupError: the file can't be read or made, is everybody's, or holds no key.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    except FileExistsError:
        return Signer(_load(path))
    except OSError as error:
        reason = error.strerror
    else:
        made = Ed25519PrivateKey.generate()
        with os.fdopen(descriptor, "wb") as file:
            files.give_to_owner_of(path.parent, descriptor)
            file.write(made.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
            file.flush()
            os.fsync(descriptor)
        return Signer(made)
    raise RefusedBackupError(f"the key that signs backups, {path}, can't be made: {reason}.")


def opened(untrusted: bytes, public: str) -> bytes:
    """Return what was signed by the owner of this public key.

    Raises:
        RefusedBackupError: it was not, or was changed since; or the key is none.
    """
    key = _bytes(public)
    if len(key) != KEY_BYTES:
        raise RefusedBackupError("the public key is none: it has 43 characters, as backup run shows it.")
    head, _, content = untrusted.partition(b"\n")
    signature = _bytes(head.removeprefix(HEAD).decode("ascii", "replace")) if head.startswith(HEAD) else b""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _PURPOSE + content)
    except (InvalidSignature, ValueError):
        pass
    else:
        return content
    raise RefusedBackupError(
        "the backup was not signed by this deployment's key, or was changed since: it may be forged. "
        "Take another one, and find out who can write where it lay."
    )


def _load(path: Path) -> Ed25519PrivateKey:
    problem = "can't be read"
    try:
        if path.stat().st_mode & 0o077:
            problem = f"is not its owner's only: chmod {FILE_MODE:o} {path}"
        else:
            return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except OSError:
        pass
    except ValueError:  # outside: its context would hold what was read
        problem = "holds no key. Move it away; the next backup is signed by a new one, to be noted down"
    raise RefusedBackupError(f"the key that signs backups, {path}, {problem}.")


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
