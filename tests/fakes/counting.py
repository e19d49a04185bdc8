"""A forwarding proxy in front of one real service, which notes every request, to count what a cycle costs."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from typing import Self
from urllib.parse import urlsplit


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:  # http.server's name
        """Pass the request on and the answer back."""
        self.server.seen.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        upstream = http.client.HTTPConnection(self.server.host, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        upstream.request(self.command, self.path, body or None, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET  # noqa: N815  # http.server's name

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, seen: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.host, self.seen = host, seen


class CountingProxy:
    """In front of the service at ``url``; ``url`` of the proxy keeps its path. Use as a context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.seen: list[str] = []
        """Method and path of every request, in their order."""
        self._server = _Server(parts.netloc, self.seen)
        self.url = f"http://127.0.0.1:{self._server.server_port}{parts.path}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._server.server_close()
