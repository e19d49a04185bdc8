"""Plays systemd for the agent: its sockets, notify socket, descriptor store, and the journal's socket.

So the agent runs as the package runs it, and is measured through its sockets alone: the benchmark knows its
configuration, its HTTP and what it tells systemd, and nothing that is inside it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from lab.bench.tools import PATIENCE_S, ROOT, end, pinned, wait
from lab.testbed.running import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.bench.tools import Tools
    from lab.testbed.running import Response

PROGRAM: Final = (
    "import time; started = time.monotonic(); import os, sys\n"
    f"sys.path.insert(0, {str(ROOT)!r})\n"
    "from agent.serve.__main__ import main\n"
    "with open(os.environ.pop('BENCH_STAMP'), 'a') as stamp:\n"
    "    stamp.write(f' {started} {time.monotonic()}')\n"
    "sys.exit(main())"
)
"""The package's launcher, from this checkout; notes when interpreter and imports were there."""


@dataclass(frozen=True)
class Stamps:
    """Moments of one start (s, monotonic clock), and where audit records go: ``journal``, or ``stderr``."""

    exec: float
    started: float
    imported: float
    audited: str


class System:
    """One unit and what outlives its process. Use as a context manager."""

    def __init__(
        self, tools: Tools, directory: Path, configuration: Callable[[Path], str], *, core: int | None = None
    ) -> None:
        directory.mkdir(mode=0o755)
        self.app, self.control = directory / "app.sock", directory / "control.sock"
        self.records = 0
        """Audit records that the journal's stand-in has taken; known at the end."""
        self.process: subprocess.Popen[bytes]
        self.store: dict[str, int] = {}
        """The descriptor store: name → descriptor."""
        self.configuration: Final = directory / "agent.toml"
        self._directory: Final = directory
        self._stamp: Final = directory / "stamp"
        self._tools: Final = tools
        self._core: Final = core
        self._ready = threading.Event()
        self._stack: Final = contextlib.ExitStack()
        self.configuration.write_text(configuration(directory))

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._stack.close)
            self._listeners = [self._listen(path) for path in (self.app, self.control)]
            self._notify = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._notify.bind(str(self._directory / "notify"))
            journal = self._directory / "journal"
            command = [*pinned(self._tools.elsewhere), str(self._tools.built / "sink"), str(journal)]
            self._sink = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            wait(journal.exists, "the journal's stand-in")
            threading.Thread(target=self._listen_to_it, daemon=True).start()
            undo.pop_all()
        return self

    def _listen(self, path: Path) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen(1024)
        return listener

    def start(self) -> Self:
        """Start the unit with all that is in the store."""
        self._ready.clear()
        named = dict(
            zip(("app", "control"), (listener.fileno() for listener in self._listeners), strict=True)
        )
        named |= self.store
        self._stamp.unlink(missing_ok=True)
        listed = ",".join(map(str, named.values()))
        unit = (str(self._tools.built / "unit"), str(self._directory / "journal"), str(self._stamp), listed)
        environ = {"NOTIFY_SOCKET": str(self._directory / "notify")}
        environ |= {"LISTEN_FDNAMES": ":".join(named), "BENCH_STAMP": str(self._stamp)}
        with (self._directory / "log").open("ab") as log:
            stderr = os.fstat(log.fileno())
            environ["JOURNAL_STREAM"] = f"{stderr.st_dev}:{stderr.st_ino}"  # systemd.exec(5)
            self.process = subprocess.Popen(
                [
                    *pinned(self._core),
                    *unit,
                    sys.executable,
                    "-I",
                    "-c",
                    PROGRAM,
                    "--config",
                    str(self.configuration),
                ],
                env=os.environ | environ,
                pass_fds=tuple(named.values()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        return self

    def stamps(self) -> Stamps:
        """Return the moments of the last start; to be asked when it has answered."""
        began, audited, started, imported = self._stamp.read_text().split()
        return Stamps(int(began) / 1e9, float(started), float(imported), audited)

    def until_ready(self) -> float:
        """Wait for READY=1; return when it came (s, monotonic clock)."""
        wait(self._ready.is_set, "READY=1", self.log)
        return self._ready_at

    def kill(self) -> None:
        """End the process as a crash does, and its fetch, as systemd would; what is in the store stays."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, target: str, method: str = "GET", *, control: bool = False) -> Response:
        """Make one request."""
        return ask(self.control if control else self.app, method, target)

    def log(self) -> str:
        """What the process wrote. It holds no value, by the product's first promise."""
        return (self._directory / "log").read_text()[-3000:]

    def _listen_to_it(self) -> None:
        """Keep, drop and note what is sent to the notify socket, until that is shut down."""
        while True:
            data, fds, _, _ = socket.recv_fds(self._notify, 65536, 8)
            if not data:
                return
            told = dict(part.partition("=")[::2] for part in data.decode().split("\n"))
            if "READY" in told:
                self._ready_at = time.monotonic()
                self._ready.set()
            if "FDSTORE" in told:
                self.store[told["FDNAME"]] = fds.pop()
            if "FDSTOREREMOVE" in told and told["FDNAME"] in self.store:
                os.close(self.store.pop(told["FDNAME"]))
            for fd in fds:  # BARRIER=1: all before it is handled
                os.close(fd)

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "process"):
            end(self.process)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self._directory / "journal"))
        self.records = int(self._sink.communicate(timeout=PATIENCE_S)[0])
        with contextlib.suppress(OSError):
            self._notify.shutdown(socket.SHUT_RDWR)
        for fd in self.store.values():
            os.close(fd)
        self._stack.close()


def first_answer(system: System, target: str) -> tuple[float, int]:
    """Start the unit with a client at its socket already; return seconds from exec, and the status."""
    came: list[tuple[float, int]] = []

    def client() -> None:
        status = ask(system.app, "GET", target).status
        came.append((time.monotonic(), status))

    thread = threading.Thread(target=client)
    thread.start()
    system.start()
    thread.join(PATIENCE_S)
    if not came:
        raise SystemExit(f"bench: no answer after a restart\n{system.log()}")
    return came[0][0] - system.stamps().exec, came[0][1]
