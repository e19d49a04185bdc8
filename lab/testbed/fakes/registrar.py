"""A registrar that makes no users: each VPS has one, which was claimed."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class FakeRegistrar(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers on the socket at ``path``. ``away``: it answers 503. Use as a context manager."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, path: Path) -> None:
        self.away = False
        self.told: list[str] = []
        """Method and path of every request."""
        super().__init__(str(path), _Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeRegistrar
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        """Return ``unix``, which has no address."""
        return "unix"

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_POST(self) -> None:  # http.server's name
        """Say that there is a user, and that it was claimed."""
        self.server.told.append(f"{self.command} {self.path}")
        self.close_connection = True
        content: dict[str, object] = {"ends": None, "since": None}
        if self.path != "/login":
            content = {"userId": f"user-of-{self.path.split('/')[2]}", "claimed": True}
        if self.server.away:
            content = {"detail": "Keystone does not answer", "retriable": True}
        body = json.dumps(content).encode()
        self.send_response(503 if self.server.away else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_DELETE = do_GET = do_POST  # noqa: N815  # http.server's name
