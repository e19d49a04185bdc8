"""A server of one beacon over real HTTP, for faults that nginx and Swift don't produce on demand."""

from __future__ import annotations

import hashlib
import http.server
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the beacon does, or with the fault that is set."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:  # http.server's name
        """Answer one look."""
        beacon = self.server.beacon
        beacon.asked.append({name.lower(): value for name, value in self.headers.items()})
        beacon.paths.append(self.path)
        beacon.peers.append(self.client_address[1])
        if beacon.fault is not None:
            beacon.fault(self)
            return
        etag = f'"{hashlib.md5(beacon.content, usedforsecurity=False).hexdigest()}"'
        if beacon.etags and self.headers.get("If-None-Match") == etag:
            self.answer(304, b"", ETag=etag)
        else:
            self.answer(200, beacon.content, **({"ETag": etag} if beacon.etags else {}))

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, beacon: BeaconServer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.beacon = beacon

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients come and go."""


class BeaconServer:
    """One object at ``url``; ``content`` is touched, ``fault`` answers instead where it is set."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, etags: bool = True) -> None:
        self.content = b"first"
        self.etags = etags
        self.fault: Callable[[Handler], None] | None = None
        self.asked: list[dict[str, str]] = []
        """The headers of every look, their names in lower case."""
        self.paths: list[str] = []
        self.peers: list[int] = []
        """The client's port of every look: the same one for a kept connection."""
        self.released = threading.Event()
        self._server = _Server(self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://localhost:{self._server.server_port}/beacon"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
