"""What can go wrong in a call to the cloud."""

from __future__ import annotations

from typing import Final

from common.errors import VpsSecretsError
from common.http_status import SERVER_ERROR, may_pass

NOT_FOUND: Final = 404


class CloudError(VpsSecretsError):
    """A call to Keystone, Barbican or Swift failed.

    ``step`` is what was tried, ``reason`` why it failed, in words of ours; never a part of an answer's body,
    which may hold a value. ``status`` is the HTTP status, None where no answer came.
    """

    def __init__(self, step: str, reason: str, *, status: int | None = None, retriable: bool) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason
        self.status = status
        self.retriable = retriable
        """Whether the same call may succeed later without anybody's doing."""

    @property
    def gone(self) -> bool:
        """Whether what was asked for is not there (any more)."""
        return self.status == NOT_FOUND


class ForeignError(VpsSecretsError):
    """An answer is well formed and holds what is not ours: a person must look, trying again is no use."""


def refused(step: str, status: int) -> CloudError:
    """Return the error of an answer with another status than the promised one."""
    words = _WORDS.get(status) or (_BROKEN if status >= SERVER_ERROR else "")
    reason = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    return CloudError(step, reason, status=status, retriable=may_pass(status))


_WORDS: Final = {
    401: "the login is not valid any more, or its access rules do not allow this call",
    403: "the account's roles do not allow it, or a quota has been reached",
    404: "it is not there",
    409: "it is there already, or is in use",
    413: "it is larger than the cloud takes",
    429: "too many calls: later again",
    502: "the service behind the gateway does not answer",
    503: "the service is not available",
    504: "the service did not answer the gateway in time",
}
_BROKEN: Final = "the service failed; its log says why"
