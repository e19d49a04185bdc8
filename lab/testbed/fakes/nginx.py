"""A real nginx with static files, from build/nginx (scripts/setup nginx)."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

PROGRAM = Path(__file__).resolve().parents[3] / "build/nginx/nginx"
CONFIGURATION = """\
daemon off;
master_process off;
pid {place}/pid;
error_log {place}/error.log;
events {{ worker_connections 64; }}
http {{
  log_format looks '$msec $status $uri';
  access_log {place}/access.log looks;
  {paths}
  server {{
    listen 127.0.0.1:{port} {tls};
    root {place}/www;
    location = /moved {{ return 301 http://127.0.0.1:{port}/beacon; }}
  }}
}}
"""
PATHS = "client_body proxy fastcgi uwsgi scgi"


class Nginx:
    """Serves ``file`` at ``url``, and what else is beside it.

    ``certificate`` is a file with a certificate for localhost and its key, for HTTPS. Each line of ``log`` is
    the time, the status and the path of one request.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        assert PROGRAM.exists(), "run scripts/setup first"
        self._certificate = certificate
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        place = Path(tempfile.mkdtemp(prefix="nginx-"))
        self._stack.callback(shutil.rmtree, place, ignore_errors=True)
        place.chmod(0o755)
        (place / "www").mkdir()
        self.file, self.log = place / "www/beacon", place / "access.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        paths = " ".join(f"{name}_temp_path {place}/{name};" for name in PATHS.split())
        configuration = place / "nginx.conf"
        pem = self._certificate
        tls = f"ssl; ssl_certificate {pem}; ssl_certificate_key {pem}" if pem else ""
        configuration.write_text(CONFIGURATION.format(place=place, port=port, paths=paths, tls=tls))
        process = subprocess.Popen([PROGRAM, "-p", place, "-c", configuration, "-e", place / "error.log"])
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.origin = f"https://localhost:{port}" if pem else f"http://127.0.0.1:{port}"
        self.url = f"{self.origin}/beacon"
        end = time.monotonic() + 20
        while not self._answers(port):
            assert time.monotonic() < end
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def _answers(port: int) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except OSError:
                return False
        return True
