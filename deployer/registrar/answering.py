"""One HTTP request on a connected Unix socket, answered in a process of its own, which then ends."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError
from deployer import one_request, peers
from deployer.cloud.errors import CloudError
from deployer.registrar import requests
from deployer.registrar.errors import RefusalError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from deployer.registrar.requests import Callers, Users

LOG: Final = logging.getLogger("deployer.registrar")
REQUEST_S: Final = 10.0
"""For a request to arrive."""
_PROBLEM: Final = "urn:vps-secrets:problem:"
_MAX_TARGET: Final = 200


def answer(connection: socket.socket, callers: Callers, users: Callable[[], Users]) -> None:
    """Answer one request. ``users`` reads credentials and logs in: only for a caller who may ask."""
    _Handler(connection, callers, users)


class _Handler(one_request.Handler):
    """Answers of ours."""

    server_version = "vps-secrets-registrar"
    request_s = REQUEST_S

    def __init__(self, connection: socket.socket, callers: Callers, users: Callable[[], Users]) -> None:
        self._callers = callers
        self._users = users
        self._peer = peers.ids(connection)
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]  # it is not used

    def handle(self) -> None:
        """Answer one request only."""
        try:
            super().handle()
        except OSError:  # the caller has gone; what was done stays done, and may be asked for again
            LOG.warning("a caller went away before its answer")

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        """Do what is asked for."""
        try:
            content = self._perform()
        except RefusalError as refusal:
            self._problem(refusal)
        except CloudError as error:
            self._problem(RefusalError(502, "cloud", str(error), retriable=error.retriable))
        except VpsSecretsError as error:
            self._problem(RefusalError(500, "configuration", str(error)))
        else:
            self.send(HTTPStatus.OK, "application/json", content)

    do_DELETE = do_GET = do_PUT = do_PATCH = do_POST  # noqa: N815  # http.server's names

    def _perform(self) -> dict[str, object]:
        if self.headers.get("Transfer-Encoding") or self.headers.get("Content-Length", "0") != "0":
            raise RefusalError(413, "body", "a request has no body here")
        request = requests.parse(self.command, self.path[:_MAX_TARGET])
        if self._peer is None:
            raise RefusalError(403, "not-allowed", "the kernel does not tell who asks")
        self._callers.check(self._peer.uid, request)
        return requests.perform(self._users(), request)

    def _problem(self, refusal: RefusalError) -> None:
        LOG.warning("%s %s: %s", self.command, ascii(self.path[:_MAX_TARGET]), refusal.detail)
        content: dict[str, object] = {
            "type": _PROBLEM + refusal.kind,
            "title": HTTPStatus(refusal.status).phrase,
            "status": refusal.status,
            "detail": refusal.detail,
            "retriable": refusal.retriable,
        }
        self.send(HTTPStatus(refusal.status), "application/problem+json", content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server could not parse; it would quote the request."""
        del message, explain
        self.command = getattr(self, "command", None) or ""
        self.path = getattr(self, "path", "")
        self._problem(RefusalError(code, "request", "that is no request as documented"))
