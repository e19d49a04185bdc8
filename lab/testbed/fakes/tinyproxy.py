"""A real tinyproxy, from build/tinyproxy (scripts/setup tinyproxy), and proxies that fail on request."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = Path(__file__).resolve().parents[3] / "build/tinyproxy/tinyproxy"


class Tinyproxy:
    """Passes on at ``url``. ``login`` is what it wants, as USER and PASSWORD; ``more`` further settings."""

    def __init__(self, login: tuple[str, str] | None = None, more: str = "") -> None:
        assert PROGRAM.exists(), "run scripts/setup first"
        self._login, self._more = login, more
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        place = Path(tempfile.mkdtemp(prefix="tinyproxy-"))
        self._stack.callback(shutil.rmtree, place, ignore_errors=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = place / "log"
        login = f"BasicAuth {' '.join(self._login)}\n" if self._login else ""
        configuration = place / "tinyproxy.conf"
        configuration.write_text(
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Connect\n"
            f'LogFile "{self._log}"\n{login}{self._more}'
        )
        configuration.chmod(0o600)
        self._process = subprocess.Popen(
            [PROGRAM, "-d", "-c", configuration], stdout=subprocess.DEVNULL, env={"PATH": os.defpath}
        )
        self._stack.callback(self.stop)
        end = time.monotonic() + 60
        while not self._listens():
            assert self._process.poll() is None, "tinyproxy has ended"
            assert time.monotonic() < end
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def stop(self) -> None:
        """End it; connections are then refused."""
        self._process.kill()
        self._process.wait()

    def places(self) -> list[str]:
        """Return each HOST:PORT that it was asked for, from its log."""
        return re.findall(r"Request \(file descriptor \d+\): CONNECT (\S+) HTTP", self._log.read_text())

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False


class FailingProxy(socketserver.ThreadingTCPServer):
    """Takes a request whole, keeps it in ``heads``, and does what ``fault`` does with the connection."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, fault: Callable[[socket.socket, threading.Event], None]) -> None:
        self.heads: list[bytes] = []
        self.released = threading.Event()

        class Handler(socketserver.BaseRequestHandler):
            server: FailingProxy

            def handle(self) -> None:
                head = b""
                while b"\r\n\r\n" not in head:
                    part = self.request.recv(4096)
                    if not part:
                        return
                    head += part
                self.server.heads.append(head)
                with contextlib.suppress(OSError):
                    fault(self.request, self.server.released)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
