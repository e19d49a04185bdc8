"""The real agent as a process of its own, and a client for its sockets."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from lab.testbed.cloud import fleet_of_one
from lab.testbed.fakes.fetch_server import CONTAINER, VPS_ID, FetchServer, World

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
_ACCEPTS = 0x10000
"""__SO_ACCEPTCON of linux/net.h, in the flags of /proc/net/unix."""
LOGIN = '[keystone]\nauth_url = "http://127.0.0.1:1/v3"\napplication_credential_id = "none"\n'


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Response:
    """An answer. ``body`` is not shown, since it may be a value."""

    status: int
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<Response {self.status} {len(self.body)} bytes>"

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The last part of the problem type, or nothing."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        return str(self.json["type"]).rpartition(":")[2]


class Agent:
    """One run of ``python -m agent.serve``. Its directory is readable by others, as /run/vps-secrets is."""

    def __init__(
        self,
        configuration: str | Callable[[Path], str],
        environ: dict[str, str] | None = None,
        wall: float | None = None,
    ) -> None:
        """``wall`` is what its wall clock shows at the start (Unix time, s); None is the machine's own."""
        self.directory = Path(tempfile.mkdtemp(prefix="vsa-"))
        self.directory.chmod(0o755)
        self.app = self.directory / "app.sock"
        self.control = self.directory / "control.sock"
        self.configuration = self.directory / "agent.toml"
        self.text = configuration
        self._environ = environ or {}
        self._wall = wall
        self.log_file = self.directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, text: str) -> None:
        """Write the configuration."""
        self.configuration.write_text(text)

    def start(self, *, wait: bool = True) -> Self:
        """Start it, and wait until it listens."""
        text = self.text(self.directory) if callable(self.text) else self.text
        self.write(text)
        with self.log_file.open("ab") as log:
            self.process = self.launch(log)
        if wait:
            self.until(lambda: listens(self.control) and listens(self.app))
        return self

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the process; what it writes goes to ``log``."""
        return subprocess.Popen(
            [sys.executable, "-m", *self._program(), "--config", str(self.configuration)],
            cwd=ROOT,
            env=os.environ | self._environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )

    def _program(self) -> list[str]:
        if self._wall is None:
            return ["agent.serve"]
        return ["lab.testbed.dated", str(self._wall - time.time())]

    def until(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Wait for a condition; fail, with the log, where it does not come true or the agent ends."""
        end = time.monotonic() + seconds
        while not condition():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"the agent ended:\n{self.journal}"
            assert time.monotonic() < end, f"waited {seconds} s in vain:\n{self.journal}"
            time.sleep(0.02)

    def until_ready(self) -> Self:
        """Wait until it has read its secrets."""
        self.until(self._is_ready)
        return self

    def _is_ready(self) -> bool:
        try:
            return self.get("/v1/health/ready").status == 200
        except ConnectionRefusedError:
            return False  # the socket of a former run

    def get(self, target: str, *, headers: dict[str, str] | None = None) -> Response:
        """Ask the app socket."""
        return ask(self.app, "GET", target, headers)

    def ask_control(self, target: str, method: str = "GET") -> Response:
        """Ask the control socket."""
        return ask(self.control, method, target)

    def status(self) -> Any:
        """Return the status document."""
        response = self.ask_control("/v1/status")
        assert response.status == 200
        return response.json

    @property
    def generation(self) -> int:
        """The generation that it serves."""
        return int(self.status()["generation"])

    @property
    def log(self) -> str:
        """Everything that it wrote."""
        return self.log_file.read_text()

    @property
    def journal(self) -> str:
        """The end of what it wrote, less the audit records, for a failing test to show."""
        return "\n".join(line for line in self.log.splitlines() if not line.startswith("audit "))[-5000:]

    def audit(self, door: str = "app") -> list[dict[str, Any]]:
        """Return the audit records of one door."""
        lines = [line.partition("audit ")[2] for line in self.log.splitlines() if line.startswith("audit ")]
        return [record for record in map(json.loads, lines) if record["door"] == door]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def listens(path: Path) -> bool:
    """Return whether somebody listens on a Unix socket (proc(5)), without connecting to it.

    The file is there a moment before that, and after a process that was killed.
    """
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return any(words[7:] == [str(path)] and int(words[3], 16) & _ACCEPTS for words in sockets)


def ask(path: Path, method: str, target: str, headers: dict[str, str] | None = None) -> Response:
    """Make one request on a connection of its own."""
    connection = UnixConnection(path)
    try:
        connection.request(method, target, headers=headers or {})
        answer = connection.getresponse()
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def raw(path: Path, sent: bytes, *, half_close: bool = False, timeout: float = 20.0) -> bytes:
    """Send bytes and return everything that comes back until the end or a pause."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        try:
            connection.sendall(sent)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has been refused already
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except TimeoutError:
            pass
        except ConnectionResetError:
            pass
        return received


@dataclass(frozen=True)
class Caller:
    """Real ids to ask with; needs root."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def ask(self, path: Path, target: str, method: str = "GET") -> tuple[int, str]:
        """Ask from a process with these ids; return status and problem type, or 0 and the error's name."""
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            # the child only makes one request and ends: no lock of another thread is needed in it
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if not pid:
            try:
                os.write(writer, self._ask(path, target, method).encode())
            finally:
                os._exit(0)  # whatever happened: it must not go on as the test
        os.close(writer)
        with os.fdopen(reader) as result:
            status, _, problem = result.read().partition(" ")
        os.waitpid(pid, 0)
        return int(status), problem

    def _ask(self, path: Path, target: str, method: str) -> str:
        try:
            os.setgroups(self.groups)
            os.setgid(self.gid)
            os.setuid(self.uid)
            response = ask(path, method, target)
        except OSError as error:
            return f"0 {type(error).__name__}"
        else:
            return f"{response.status} {response.problem}"


UNPOLLED = '[rotation]\npoll_interval = "24h"\n'
"""The poll after a start comes anywhere within an interval: in 15 minutes it would come into some test."""
OF_POLLS = ("poll_interval", "fresh_for", "[rotation]", "[budget]")
"""A configuration that says one of these is about polls itself."""


def fake_configuration(directory: Path, world: World, extra: str = "") -> tuple[FetchServer, str]:
    """Start a fake fetch program in the directory; return it and a configuration that uses it."""
    server = FetchServer(directory / "fetch.sock", world)
    text = (
        f'vps_id = "{VPS_ID}"\ncontainer = "https://barbican.example/v1/containers/{CONTAINER}"\n{LOGIN}'
        f'[fetch]\nsocket = "{directory}/fetch.sock"\ntimeout = "2s"\nconnect_timeout = "1s"\n'
        f'[app]\nsocket = "{directory}/app.sock"\nmode = "0666"\n'
        f'[control]\nsocket = "{directory}/control.sock"\nadmin_group = "games"\n'
        f"{fleet_of_one(extra if any(key in extra for key in OF_POLLS) else UNPOLLED + extra)}"
    )
    return server, text
