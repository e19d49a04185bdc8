"""What the agent is measured beside: each started with all that it needs, on a Unix socket of its own.

A peer that can't be had on this machine raises :class:`Missing`, which the benchmark tells.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lab.bench.tools import BUILD, HERE, Missing, Tools, end, pinned, wait
from lab.testbed.fakes.nginx import PROGRAM as NGINX
from lab.testbed.running import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPConnection
    from pathlib import Path

PYTHON: Final = BUILD / "peers-venv/bin/python"
PEERS_HINT: Final = "fix it with: scripts/setup peers"


@dataclass(frozen=True)
class Target:
    """One thing to read. ``request`` is sent as it is; ``keepalive`` where the server can."""

    name: str
    socket: Path
    request: bytes
    keepalive: bool = True


@dataclass(frozen=True)
class Peer:
    """A running server and its processes."""

    targets: tuple[Target, ...]
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a peer may write, and the machine's tools."""

    tools: Tools
    directory: Path

    @contextlib.contextmanager
    def server(self, *command: str | Path, core: int | None = None, **environ: str) -> Iterator[int]:
        """Run a server, on the measured core unless told otherwise; yield its process id."""
        core = self.tools.core if core is None else core
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [*pinned(core), *command],
                cwd=self.directory,
                env=os.environ | {"HOME": str(self.directory)} | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process.pid
        finally:
            end(process)

    def until_it_listens(self, path: Path) -> None:
        """Wait until a socket accepts connections."""
        wait(lambda: _listens(path), f"a listener at {path.name} of {self.directory.name}", self.log)

    def log(self) -> str:
        """Return the end of what the peer wrote."""
        return (self.directory / "log").read_text(errors="replace")[-2000:]


def value() -> str:
    """Return a value as long as the agent's own of the same run (JWT_SECRET): 43 bytes."""
    return secrets.token_urlsafe(32)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def get(target: str, *headers: str) -> bytes:
    """Return a GET request as it goes over the wire."""
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode()


@contextlib.contextmanager
def c_floor(place: Place) -> Iterator[Peer]:
    """Constant bytes with epoll in C: what the sockets themselves cost."""
    path = place.directory / "sock"
    with place.server(place.tools.built / "floor", path) as pid:
        place.until_it_listens(path)
        yield Peer((Target("C floor", path, get("/")),), (pid,))


@contextlib.contextmanager
def aiohttp_floor(place: Place) -> Iterator[Peer]:
    """Constant bytes from aiohttp's low-level server: what a common Python server costs."""
    path = place.directory / "sock"
    with place.server(python(), HERE / "floor.py", path) as pid:
        place.until_it_listens(path)
        yield Peer((Target("aiohttp floor", path, get("/")),), (pid,))


@contextlib.contextmanager
def nginx(place: Place) -> Iterator[Peer]:
    """Serve a static file with one worker and no access log: nothing is checked, nothing is recorded."""
    if not NGINX.exists():
        raise Missing("there is no nginx; fix it with: apt-get update, and run scripts/bench again")
    path, configuration = place.directory / "sock", place.directory / "nginx.conf"
    (place.directory / "secret").write_text(value())
    account = f"user {getpass.getuser()};" if not os.getuid() else ""
    temporary = " ".join(
        f"{kind}_temp_path {place.directory}/temporary;"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration.write_text(
        f"daemon off; worker_processes 1; pid {place.directory}/pid; error_log stderr; {account}\n"
        "events { }\n"
        f"http {{ access_log off; keepalive_requests 1000000000; {temporary}\n"
        f"server {{ listen unix:{path}; root {place.directory}; }} }}\n"
    )
    with place.server(NGINX, "-p", place.directory, "-c", configuration, "-e", "stderr") as pid:
        place.until_it_listens(path)
        workers = tuple(map(int, _children(pid)))
        yield Peer((Target("nginx, static file", path, get("/secret")),), (pid, *workers))


def _children(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:  # noqa: PTH123  # not a file of anybody's
        return children.read().split()


@contextlib.contextmanager
def custodia(place: Place) -> Iterator[Peer]:
    """custodia with its sqlite store: it forks for each request and closes each connection."""  # noqa: D403
    program = python().with_name("custodia")
    path, configuration = place.directory / "sock", place.directory / "custodia.conf"
    configuration.write_text(
        f"[global]\nserver_socket = {path}\nauditlog = {place.directory}/audit\n"
        f"[store:file]\nhandler = SqliteStore\ndburi = {place.directory}/store\ntable = secrets\n"
        f"[auth:creds]\nhandler = SimpleCredsAuth\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
        "[authz:paths]\nhandler = SimplePathAuthz\npaths = /secrets\n"
        "[/]\nhandler = Root\nstore = file\n[/secrets]\nhandler = Secrets\nstore = file\n"
    )
    with place.server(program, configuration) as pid:
        place.until_it_listens(path)
        connection = UnixConnection(path)
        send(connection, "POST", "/secrets/vps/")
        send(connection, "PUT", "/secrets/vps/KEY", value(), {"Content-Type": "application/octet-stream"})
        request = get("/secrets/vps/KEY", "Accept: application/octet-stream")
        yield Peer((Target("custodia", path, request, keepalive=False),), (pid,))


def send(
    connection: HTTPConnection, method: str, path: str, body: str = "", headers: dict[str, str] | None = None
) -> Any:
    """Make one request of a peer's own set-up; return what JSON it answers."""
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    received = answer.read()
    if answer.status >= 300:  # noqa: PLR2004  # all that is not 2xx
        raise Missing(f"{method} {path} of its set-up was answered with {answer.status}")
    return json.loads(received) if received.startswith(b"{") else {}


def python() -> Path:
    """Return the interpreter of the peers' environment."""
    if not PYTHON.exists():
        raise Missing(f"build/peers-venv is missing; {PEERS_HINT}")
    return PYTHON
