"""Why the registrar refuses, in the terms of HTTP."""

from __future__ import annotations

from common.errors import VpsSecretsError


class RefusalError(VpsSecretsError):
    """A request that is not done. ``status`` is HTTP's, ``kind`` the last part of the problem's type."""

    def __init__(self, status: int, kind: str, detail: str, *, retriable: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retriable = retriable
