"""The dashboard for a browser: a port on loopback that passes GET requests on to the API's Unix socket.

For the demo only: whoever uses this machine may look, and the demo has nothing but made-up secrets.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_HEAD: Final = 16384
IDLE_S: Final = 60.0


class Relay:
    """Owns the port. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://localhost:{self._listener.getsockname()[1]}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the demo ends
            while True:
                browser, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(browser,), daemon=True).start()

    def _pass_on(self, browser: socket.socket) -> None:
        """Pass on one request and its answer, then hang up."""
        with browser, socket.socket(socket.AF_UNIX) as api, contextlib.suppress(OSError):
            browser.settimeout(IDLE_S)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < LONGEST_HEAD:
                got = browser.recv(LONGEST_HEAD)
                if not got:
                    return
                head += got
            lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
            if not lines[0].startswith(b"GET "):
                browser.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            api.settimeout(IDLE_S)
            api.connect(str(self._path))
            api.sendall(b"\r\n".join([*kept, b"Connection: close", b"", b""]))
            while answer := api.recv(65536):
                browser.sendall(answer)
