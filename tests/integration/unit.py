"""The real agent, started as systemd would: with its sockets and what the descriptor store has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Self

from lab.testbed.running import ROOT, Agent
from tests.scenarios.machine import DescriptorStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LAUNCH = """
import os, sys
count, program = int(sys.argv[1]), sys.argv[2:]
high = [os.dup2(fd, 200 + at) for at, fd in enumerate(map(int, program[:count]))]
for at, fd in enumerate(high):
    os.dup2(fd, 3 + at)
os.closerange(3 + count, 200 + count)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *program[count:]])
"""


class Unit(Agent):
    """``start`` may be called again after an end: the next process gets what the store holds by then.

    ``program`` is what runs instead of ``agent.serve``, for faults that nothing real has at will.
    """

    def __init__(
        self,
        configuration: str | Callable[[Path], str],
        environ: dict[str, str] | None = None,
        program: str = "",
    ) -> None:
        super().__init__(configuration, environ)
        self._runs = ["-c", program] if program else ["-m", "agent.serve"]
        self.credentials = self.directory / "credentials.sock"
        self._listeners = {path.stem: _listen(path) for path in (self.app, self.control, self.credentials)}
        self._store = DescriptorStore(self.directory / "notify")

    @property
    def kept(self) -> list[str]:
        """The names of what systemd would keep now."""
        self._store.take_all()
        return [name for name, _ in self._store.kept]

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait for a condition, as systemd would: it reads what it is sent."""

        def met() -> bool:
            self._store.take_all()
            return condition()

        super().until(met, seconds)

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the process with everything that it inherits."""
        self._store.take_all()
        named = [
            *((name, listener.fileno()) for name, listener in self._listeners.items()),
            *self._store.kept,
        ]
        fds = [fd for _, fd in named]
        return subprocess.Popen(
            [
                *(sys.executable, "-c", _LAUNCH, str(len(fds)), *map(str, fds)),
                *(*self._runs, "--config", str(self.configuration)),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in named),
                "NOTIFY_SOCKET": str(self.directory / "notify"),
            }
            | self._environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=fds,
        )

    def load_credential(self, unit: str, name: str) -> socket.socket:
        """Ask as systemd does for ``LoadCredential=``; needs root."""
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.bind(f"\0{os.urandom(8).hex()}/unit/{unit}/{name}")
        connection.connect(str(self.credentials))
        return connection

    def __exit__(self, *how: object) -> None:
        super().__exit__(*how)
        for listener in self._listeners.values():
            listener.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(128)
    return listener
