"""The deployer's real API as a process of its own, with what stands around it, and clients for it.

:class:`Api` runs it on a database of its own. Where worker and registrar are not what is tried,
:class:`Parts` stands in for them on their sockets: real HTTP, and it remembers what it was told. What the
worker would write, tests write by the same functions of the database.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from deployer.api import contract
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from lab.testbed.running import ROOT, Response, UnixConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEADLINE_S: Final = 60.0
PYTHON: Final = os.environ.get("DEPLOYER_PYTHON", sys.executable)
"""Another interpreter, for a run of tests with other versions of the libraries, such as Debian 12's."""
ROUTES: Final = contract.Routes()
JSON: Final = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Told:
    """One request that a part got. ``body`` may be a value, so it is not shown."""

    method: str
    path: str
    operation: str
    body: bytes = field(repr=False)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64


class Parts:
    """Worker and registrar, as far as the API sees them. ``answers``: (status, body) by method and path."""

    def __init__(self, directory: Path) -> None:
        self.told: list[Told] = []
        self.answers: dict[tuple[str, str], tuple[int, dict[str, str]]] = {}
        self.meanwhile: Callable[[str], object] = lambda _: None
        """What happens before a part answers a request for this path."""
        self._servers = [self._serve(directory / name) for name in ("worker.sock", "registrar.sock")]

    def _serve(self, path: Path) -> _UnixServer:
        parts = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *_: object) -> None:
                return

            def do_POST(self) -> None:  # http.server's name
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                parts.told.append(Told(self.command, self.path, self.headers.get("Operation", ""), body))
                identity = {"userId": "u", "oneTimePassword": "p"} if "/claim" in self.path else {}
                status, content = parts.answers.get((self.command, self.path), (200, identity))
                if identity and body:
                    status = 413  # as the registrar, whose requests have none
                parts.meanwhile(self.path)
                answer = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_PUT = do_POST  # noqa: N815  # http.server's name

        server = _UnixServer(str(path), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        """End both."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


class Api:
    """One run of ``python -m deployer.api`` in a directory of its own. ``extra`` is more of deployer.toml."""

    def __init__(
        self,
        extra: str = "",
        *,
        api: str = "",
        database: str = "",
        parts: bool = True,
        sealing: str = '[sealing]\ndefault = "off"\n',
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vsd-"))
        self.directory.chmod(0o755)  # other users connect to the socket
        self.socket = self.directory / "api.sock"
        self.url = database or f"sqlite:///{self.directory}/deployer.db"
        self.log = self.directory / "log"
        (self.directory / "deployer.toml").write_text(
            f'[database]\nurl = "{self.url}"\n[worker]\nsocket = "{self.directory}/worker.sock"\n'
            f'[registrar]\nsocket = "{self.directory}/registrar.sock"\n'
            f'[keystone]\nauth_url = "https://keystone.example/v3"\n{sealing}'
            f'[api]\nsocket = "{self.socket}"\n{api}\n{_own_role()}{extra}'
        )
        self.database = open_database(self.url)
        migrate(self.database)
        self.parts = Parts(self.directory) if parts else None
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        log = self.log.open("ab")
        with log:
            self.process = subprocess.Popen(
                [PYTHON, "-m", "deployer.api", "--config", str(self.directory / "deployer.toml")],
                cwd=ROOT,
                stderr=log,
                stdout=log,
                env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            )
        process = self.process
        until(lambda: process.poll() is not None or _answers(self.socket))
        assert self.process.poll() is None, self.log.read_text()
        return self

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; return its status."""
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(DEADLINE_S)
        self.process = None
        return status

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.parts is not None:
            self.parts.close()
        self.database.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask(
        self,
        method: str,
        target: str,
        content: object = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Ask for something; every answer is held against the contract."""
        sent, named = _prepared(content, body, headers)
        connection = UnixConnection(self.socket, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request(method, target, sent, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            response = Response(answer.status, found, answer.read())
        held_against_contract(method, target, response)
        return response

    def ask_as_somebody(
        self, method: str, target: str, content: object = None, *, groups: tuple[int, ...] = ()
    ) -> Response:
        """Ask as the user ``nobody``, with these groups besides; needs root."""
        sent, named = _prepared(content, None, None)
        nobody = pwd.getpwnam("nobody")
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # the child only makes one request and ends: no lock of another thread is needed in it
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            os.setgroups(groups)
            os.setgid(nobody.pw_gid)
            os.setuid(nobody.pw_uid)
            connection = UnixConnection(self.socket, timeout=DEADLINE_S)
            connection.request(method, target, sent, named)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            os.write(writer, json.dumps([answer.status, found, answer.read().hex()]).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as result:
            status, headers, body = json.load(result)
        os.waitpid(pid, 0)
        return Response(status, headers, bytes.fromhex(body))


class Relay:
    """A port of the loopback interface in front of a Unix socket, for clients that know no others."""

    def __init__(self, path: Path) -> None:
        self.requests: list[bytes] = []

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.socket(socket.AF_UNIX) as inside:
                    inside.connect(str(path))
                    back = threading.Thread(target=_pump, args=(inside, self.request), daemon=True)
                    back.start()
                    _pump(self.request, inside)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def held_against_contract(method: str, target: str, response: Response) -> None:
    """Fail where an answer is not what the contract says of it."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    if kind == "application/problem+json":
        schema = contract.DOCUMENT["components"]["schemas"]["Problem"]
    elif kind == "application/json" and response.body:  # HEAD has none
        operation, _ = ROUTES.find(method, target.partition("?")[0])
        answers = contract.DOCUMENT["paths"][operation.template][method.lower()]["responses"]
        schema = contract.resolved(answers[str(response.status)])["content"]["application/json"]["schema"]
    else:
        return
    errors = [error.message for error in contract.validator(schema).iter_errors(response.json)]
    assert errors == [], errors


def until(holds: Any) -> None:
    """Wait for a condition, with a deadline that only a broken program reaches."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.02)


def _own_role() -> str:
    """Return the rule that makes whoever runs the tests an operator; root is one anyway."""
    return f'[[role]]\nrole = "operator"\nuser = "{pwd.getpwuid(os.geteuid()).pw_name}"\n'


def _prepared(
    content: object, body: bytes | None, headers: Mapping[str, str] | None
) -> tuple[bytes | None, dict[str, str]]:
    if content is not None:
        return json.dumps(content).encode(), {**JSON, **(headers or {})}
    return body, dict(headers or {})


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return not probe.connect_ex(str(path))


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def lines(stream: Any) -> Iterator[str]:
    """Yield the lines of a stream of events as they come."""
    while line := stream.readline():
        yield line.decode().rstrip("\n")
