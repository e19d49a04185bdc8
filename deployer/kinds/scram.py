"""The verifier of a password for PostgreSQL, so that the server never sees the password (RFC 5803, RFC 7677).

For passwords of ASCII only: SASLprep (RFC 4013), which others would need, leaves those as they are.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

ITERATIONS: Final = 4096
"""What PostgreSQL itself uses. Our passwords have 256 random bits: more would only slow each log-in."""
SALT_BYTES: Final = 16


def verifier(password: memoryview, salt: bytes | None = None) -> str:
    """Return ``SCRAM-SHA-256$ITERATIONS:SALT$STORED-KEY:SERVER-KEY``; the salt is random unless given."""
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt64}${stored64}:{server64}"
