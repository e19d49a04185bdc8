"""What the fake cloud and the proxy have in common: one HTTP connection, answered at will."""

from __future__ import annotations

import abc
import http.server
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading


class AnsweringHandler(http.server.BaseHTTPRequestHandler, abc.ABC):
    """One connection. ``body`` is that of the request at hand."""

    protocol_version = "HTTP/1.1"
    body = b""

    @property
    @abc.abstractmethod
    def service(self) -> str:
        """Return ``keystone`` or ``barbican``."""

    @property
    @abc.abstractmethod
    def released(self) -> threading.Event:
        """Return what is set when whatever hangs shall go on."""

    @property
    def clock_ahead(self) -> float:
        """Return how far the service's clock is ahead of this machine's (s)."""
        return 0.0

    @abc.abstractmethod
    def respond(self) -> None:
        """Answer the request at hand."""

    def do_GET(self) -> None:  # http.server's name
        """Take the request whole, then answer it."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.respond()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  # http.server's names

    def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        """Send a whole answer; header names are written with underscores."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the Date header by the service's clock."""
        return super().date_time_string((timestamp or time.time()) + self.clock_ahead)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
