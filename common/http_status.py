"""What a status of HTTP says by itself (RFC 9110; 425: RFC 8470, 429: RFC 6585)."""

from __future__ import annotations

from typing import Final

FORBIDDEN: Final = 403
SERVER_ERROR: Final = 500
FORBIDDEN_AGAIN: Final = 2
"""How often a call is repeated that Keystone answers by 403 and should not: it does nothing then (ADR 51)."""
FORBIDDEN_PAUSE_S: Final = 0.3
_TRANSIENT: Final = frozenset({408, 425, 429})


def may_pass(status: int) -> bool:
    """Return whether the same call may succeed later without anybody's doing."""
    return status in _TRANSIENT or status >= SERVER_ERROR
