"""HTTP for a socket that takes one request a connection: http.server's parser, within one time, ours to word.

Only bytes that the parser asks for are read, so what a body holds is in its reader's buffer and in no other.
"""

from __future__ import annotations

import http.server
import io
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from http import HTTPStatus


class Until(io.RawIOBase):
    """What a caller sends until a moment; whoever dribbles gets no more time than whoever is silent."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._ends = time.monotonic() + seconds

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what is there.

        Raises:
            TimeoutError: the time is over.
        """
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request. ``request_s``: within which it has to arrive; as long may the answer take."""

    protocol_version = "HTTP/1.1"
    sys_version = ""
    request_s = 10.0

    def setup(self) -> None:
        """Read within the time, and nothing ahead."""
        super().setup()
        self.rfile.close()
        self.rfile = Until(self.connection, self.request_s)  # type: ignore[assignment]  # all that is used

    def handle(self) -> None:
        """Answer one request only."""
        self.close_connection = True
        self.handle_one_request()

    def send(self, status: HTTPStatus, kind: str, content: Mapping[str, object]) -> None:
        """Send an answer; it is the connection's last."""
        body = json.dumps(content).encode()
        self.connection.settimeout(self.request_s)
        self.request_version = self.protocol_version  # also to what was no HTTP
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Leave the journal to whoever knows what was asked for."""
