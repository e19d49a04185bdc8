"""How a VPS says in its container to which public key its secrets are to be sealed: as a consumer.

The VPS registers the consumer when it joins; the deployment finds it in the container that it reads anyway.
A consumer is a claim by whoever holds the VPS's credential, no proof: that is why two are an alarm.

A key may say which one comes after it, by a hash that covers the next key and what that says of its own next
one. The next key is announced together with the former: whoever holds the credential alone can show no other
(docs/adr/0048).
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final

CONSUMER: Final = "vps-secrets-key"
"""The name of the consumer; that of what is served is in common/acknowledgement.py."""
KEY_BYTES: Final = 32
"""The length of an X25519 key, public or private (RFC 7748)."""
CREDENTIAL: Final = "sealing-key"
"""The name of the systemd credential with the private keys, the one in force first, at most two lines.

Each is base64url, and may be followed by what its announcement says besides the public key.
"""
NO_KEY: Final = "none"
"""What the credential holds where the VPS has no key: systemd's units can't leave one out."""

_URL: Final = "urn:vps-secrets:x25519:"
FINGERPRINT: Final = 32
"""Hexadecimal digits of a key's digest."""
ID: Final = 16
"""Characters that tell a private key from others (:func:`id_of`)."""
_MOST_PARTS: Final = 3
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{43}")  # 32 bytes of base64url without padding


def encoded(key: bytes) -> str:
    """Return a key of 32 bytes as base64url without padding, as URL and credential have it.

    Raises:
        ValueError: it has another length.
    """
    if len(key) != KEY_BYTES:
        message = f"an X25519 key has {KEY_BYTES} bytes"
        raise ValueError(message)
    return base64.urlsafe_b64encode(key).decode("ascii").rstrip("=")


def decoded(untrusted: str) -> bytes | None:
    """Return the key, or None where the text is not exactly what :func:`encoded` makes of one."""
    if _KEY.fullmatch(untrusted) is None:
        return None
    key = base64.urlsafe_b64decode(untrusted + "=")
    return key if encoded(key) == untrusted else None  # one text for one key: no bits left over


@dataclass(frozen=True, slots=True, order=True)
class Announced:
    """A public key as its VPS announces it.

    ``next`` is the digest of the announcement that comes after it, ``former`` the key before it; b"": none.
    """

    key: bytes
    next: bytes = b""
    former: bytes = b""

    @property
    def digest(self) -> bytes:
        """What the key before this one says of it (32 bytes)."""
        return hashlib.sha256(self.key + self.next).digest()

    @property
    def fingerprint(self) -> str:
        """What tells it from another one, in the marks of what is sealed to it."""
        return self.digest.hex()[:FINGERPRINT]

    @property
    def rest(self) -> str:
        """What is said besides the key, as URL and credential have it."""
        if self.former:
            return f".{encoded(self.next) if self.next else ''}.{encoded(self.former)}"
        return f".{encoded(self.next)}" if self.next else ""

    @property
    def consumer(self) -> dict[str, str]:
        """The consumer that announces it, as the JSON object that Barbican takes and lists."""
        return {"name": CONSUMER, "URL": f"{_URL}{encoded(self.key)}{self.rest}"}

    def succeeds(self, fingerprint: str) -> bool:
        """Tell whether the announcement of this fingerprint has said that this one comes after it."""
        return bool(self.former) and Announced(self.former, self.digest).fingerprint == fingerprint


def in_force(announced: frozenset[Announced]) -> frozenset[Announced]:
    """Return those that none of the others succeeds: one, unless somebody else announces a key, too."""
    return frozenset(
        one for one in announced if not any(other.succeeds(one.fingerprint) for other in announced)
    )


def id_of(private: bytes) -> str:
    """Return what tells a private key from others, and nothing of it: it has 256 random bits."""
    return hashlib.sha256(b"vps-secrets sealing key\n" + private).hexdigest()[:ID]


def announcement_of(public: bytes) -> dict[str, str]:
    """Return the consumer that announces a public key alone.

    Raises:
        ValueError: the key has not 32 bytes.
    """
    return Announced(public).consumer


def announced_by(untrusted_url: str) -> Announced | None:
    """Return what a consumer's URL announces, or None where it is another's or malformed."""
    if not untrusted_url.startswith(_URL):
        return None
    return parse(untrusted_url.removeprefix(_URL))


def parse(untrusted: str) -> Announced | None:
    """Return a key with what is said besides, None where the text is not what is made of one.

    In the credential the key is the private one.
    """
    parts = untrusted.split(".")
    if len(parts) > _MOST_PARTS:
        return None
    keys = [decoded(part) if part else b"" for part in parts]
    found = Announced(*(key or b"" for key in keys))
    known = None not in keys and bool(found.key)
    return found if known and f"{encoded(found.key)}{found.rest}" == untrusted else None
