"""How a VPS says in its container to which public key its secrets are to be sealed: as a consumer.

The VPS registers the consumer when it joins; the deployment finds it in the container that it reads anyway.
A consumer is a claim by whoever holds the VPS's credential, no proof: that is why two are an alarm.
"""

from __future__ import annotations

import base64
import re
from typing import Final

CONSUMER: Final = "vps-secrets-key"
"""The name of the consumer; that of what is served is in common/acknowledgement.py."""
KEY_BYTES: Final = 32
"""The length of an X25519 key, public or private (RFC 7748)."""
CREDENTIAL: Final = "sealing-key"
"""The name of the systemd credential with the private key: each key is one line of base64url, at most two."""
NO_KEY: Final = "none"
"""What the credential holds where the VPS has no key: systemd's units can't leave one out."""

_URL: Final = "urn:vps-secrets:x25519:"
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


def announcement_of(public: bytes) -> dict[str, str]:
    """Return the consumer that announces a public key, as the JSON object that Barbican takes and lists.

    Raises:
        ValueError: the key has not 32 bytes.
    """
    return {"name": CONSUMER, "URL": _URL + encoded(public)}


def key_of(untrusted_url: str) -> bytes | None:
    """Return the public key that a consumer's URL announces, or None where it is another's or malformed."""
    if not untrusted_url.startswith(_URL):
        return None
    return decoded(untrusted_url.removeprefix(_URL))
