"""``worker.sock``: the api wakes the worker here, and hands values on that a person has given.

HTTP/1.1 on a Unix socket. Who may connect is the socket's mode and group; who may ask is checked again by
the peer's uid, before anything is parsed: root, this program's own user, the api's (registrar.api_user).

POST /wake                    {"vps": ID}: there is something to do
PUT  /vps/ID/secrets/NAME     the value, byte for byte; answered when it is listed, or when it is refused

A value exists here for as long as the request takes, in one buffer that is wiped: nothing reads ahead. A
worker that ends meanwhile has lost it: the caller gets no answer, and gives it again.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socketserver
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError
from common.limits import MAX_PAYLOAD
from common.names import parse_name, parse_vps_id
from deployer import one_request, peers
from deployer.database.errors import ConflictError, NotFoundError
from deployer.kinds.kind import KindError
from deployer.kinds.value import Value
from deployer.worker.giving import NotJoinedError

if TYPE_CHECKING:
    import socket

    from deployer.worker.giving import Giving
    from deployer.worker.loop import Worker

LOG: Final = logging.getLogger("deployer.worker")
REQUEST_S: Final = 20.0
"""For a request to arrive."""
STRANGER_S: Final = 1.0
STRANGER_BYTES: Final = 65536
MAX_CALLERS: Final = 64
_TARGET: Final = re.compile(r"/vps/([^/?]{1,64})/secrets/([^/?]{1,200})")


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The socket; a thread a request, at most :data:`MAX_CALLERS`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, listener: socket.socket, worker: Worker, giving: Giving, callers: frozenset[int]
    ) -> None:
        """``listener`` is bound and listens; ``callers`` are the users who may ask."""
        super().__init__("", _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.worker = worker
        self.giving = giving
        self.callers = callers
        self._places = threading.BoundedSemaphore(MAX_CALLERS)

    def process_request(self, request: object, client_address: object) -> None:
        """Answer in a thread; without a place for it not at all, so that nobody can start thousands.

        Nothing here waits: whoever fills the places does not keep the worker from ending.
        """
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            LOG.warning("%d requests are being answered already: one more was not", MAX_CALLERS)
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Answer, and give the place back."""
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say that a request broke off; a traceback could show what it held."""
        del request, client_address
        LOG.warning("a request on the worker's socket broke off")


def _status_of(error: VpsSecretsError) -> HTTPStatus:
    """Return what tells the api what was in the way: it has words of its own (deployer/api/upstream.py)."""
    if isinstance(error, NotJoinedError):
        return HTTPStatus.FAILED_DEPENDENCY
    if isinstance(error, NotFoundError):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, ConflictError):
        return HTTPStatus.CONFLICT
    if isinstance(error, KindError) and error.permanent:
        return HTTPStatus.UNPROCESSABLE_ENTITY
    return HTTPStatus.SERVICE_UNAVAILABLE


class _Handler(one_request.Handler):
    server: Door
    server_version = "vps-secrets-worker"
    request_s = REQUEST_S

    def handle(self) -> None:
        """Answer one request, of somebody who may ask."""
        peer = peers.ids(self.connection)
        if peer is not None and peer.uid in self.server.callers:
            super().handle()
            return
        who = f"the user {peer.uid} of this machine" if peer else "somebody whom the kernel does not name"
        LOG.warning("%s may not use the worker's socket: the api's user is registrar.api_user", who)
        self.requestline = ""  # nothing is parsed
        self.connection.settimeout(STRANGER_S)
        with contextlib.suppress(OSError):  # so that he has sent it, and reads the answer
            self.connection.recv(STRANGER_BYTES)
        self._problem(HTTPStatus.FORBIDDEN, f"{who} may not ask for anything here")

    def do_POST(self) -> None:  # noqa: N802  # http.server's name
        """Wake the worker."""
        if self.path != "/wake":
            self._problem(HTTPStatus.NOT_FOUND, "there is only POST /wake")
            return
        body = self._body(1000)
        if body is not None:
            self.server.worker.wake()
            self.send(HTTPStatus.OK, "application/json", {})

    def do_PUT(self) -> None:  # noqa: N802  # http.server's name
        """Take a value."""
        match = _TARGET.fullmatch(self.path)
        vps_id, name = (parse_vps_id(match[1]), parse_name(match[2])) if match else (None, None)
        if vps_id is None or name is None:
            self._problem(HTTPStatus.NOT_FOUND, "there is only PUT /vps/ID/secrets/NAME")
            return
        body = self._body(MAX_PAYLOAD)
        if body is None:
            return
        who = self.headers.get("Operation", "")[:64]
        try:
            self.server.giving.give(vps_id, name, Value(body), who)
        except VpsSecretsError as error:
            LOG.warning("the value of %s of %s was not stored: %s", name, vps_id, error)
            self._problem(_status_of(error), str(error))
        else:
            self.send(HTTPStatus.OK, "application/json", {"vps": vps_id, "name": name})

    def _body(self, most: int) -> bytearray | None:
        """Return the body, which its caller wipes; None where it was refused."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not re.fullmatch(r"[0-9]{1,9}", length, re.ASCII):
            self._problem(HTTPStatus.LENGTH_REQUIRED, "Content-Length is needed")
            return None
        if int(length) > most:
            self._problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {most} bytes are taken")
            return None
        body = bytearray(int(length))
        problem = self._fill(body)
        if problem is None:
            return body
        body[:] = bytes(len(body))
        self._problem(*problem)
        return None

    def _fill(self, body: bytearray) -> tuple[HTTPStatus, str] | None:
        """Read a body; return why it is not whole."""
        view, got = memoryview(body), 0
        try:
            while got < len(body):
                read = self.rfile.readinto(view[got:])
                if not read:
                    return HTTPStatus.BAD_REQUEST, "the body ended early"
                got += read
        except TimeoutError:
            return HTTPStatus.REQUEST_TIMEOUT, f"the body did not arrive within {REQUEST_S:g} s"
        except OSError:
            return HTTPStatus.BAD_REQUEST, "the connection broke off"
        return None

    def _problem(self, status: HTTPStatus, detail: str) -> None:
        content = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
        self.send(status, "application/problem+json", content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server could not parse; it would quote the request."""
        del message, explain
        self._problem(HTTPStatus(code), "that is no request as documented")
