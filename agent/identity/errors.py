"""What can go wrong with a VPS's own account. No class here can hold a password, token or secret."""

from __future__ import annotations

from typing import Final

from common.errors import VpsSecretsError
from common.http_status import FORBIDDEN, SERVER_ERROR, may_pass

UNAUTHORIZED: Final = 401
CONFLICT: Final = 409
_WORDS: Final = {
    400: "it does not take the request",
    401: "the login is refused, or not valid any more",
    FORBIDDEN: "the account may not do this",
    404: "it is not there",
    409: "it is there already",
    429: "too many calls",
}


class IdentityError(VpsSecretsError):
    """A call to Keystone or Barbican failed.

    ``step`` is what was tried, ``reason`` why it failed, in words of ours. ``status`` is the HTTP status,
    None where no answer came. ``retriable`` tells whether the same call may succeed later by itself.
    """

    def __init__(self, step: str, reason: str, *, status: int | None = None, retriable: bool) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.status = status
        self.retriable = retriable


class CredentialFileError(VpsSecretsError):
    """An encrypted credential of this machine can't be written or read; the text says why, never what."""


def refused(step: str, status: int) -> IdentityError:
    """Return the error of an answer with another status than those that are promised."""
    words = "the service failed" if status >= SERVER_ERROR else _WORDS.get(status, "unexpected")
    return IdentityError(step, f"HTTP {status}: {words}", status=status, retriable=may_pass(status))
