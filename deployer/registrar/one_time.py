"""One-time passwords: derived, so that none is ever stored, and the note that says which one is in force.

The note is the user's description in Keystone. Generation 0 was never told to anybody. The key's fingerprint
is in it since a password of another key would be wrong as a password that was changed is: that must not be
taken for a claim.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final, NamedTuple

_NOTE: Final = re.compile(r"vps-secrets: one-time password ([0-9]{1,6}), key ([0-9a-f]{8})")
MIN_KEY: Final = 32
"""Bytes of the registrar's key."""


class Note(NamedTuple):
    """Which one-time password a user has: its generation, and the fingerprint of its key."""

    generation: int
    fingerprint: str

    def __str__(self) -> str:
        """Return it as it is written at the user."""
        return f"vps-secrets: one-time password {self.generation}, key {self.fingerprint}"


def parse(untrusted_description: str) -> Note | None:
    """Return the note in a user's description, or None where it is something else."""
    match = _NOTE.fullmatch(untrusted_description)
    return Note(int(match[1]), match[2]) if match else None


def password(key: bytes, vps_id: str, user_id: str, generation: int) -> str:
    """Return a one-time password: 43 characters of 256 bits. Not to be logged."""
    told = f"vps-secrets one-time password\0{vps_id}\0{user_id}\0{generation}".encode()
    return base64.urlsafe_b64encode(hmac.digest(key, told, hashlib.sha256)).decode().rstrip("=")


def fingerprint(key: bytes) -> str:
    """Return what tells one key from another, and tells nothing of it."""
    return hmac.digest(key, b"vps-secrets fingerprint", hashlib.sha256).hex()[:8]
