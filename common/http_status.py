"""What a status of HTTP says by itself (RFC 9110; 425: RFC 8470, 429: RFC 6585)."""

from __future__ import annotations

from typing import Final

SERVER_ERROR: Final = 500
_TRANSIENT: Final = frozenset({408, 425, 429})


def may_pass(status: int) -> bool:
    """Return whether the same call may succeed later without anybody's doing."""
    return status in _TRANSIENT or status >= SERVER_ERROR
