"""The real agent, started as systemd would: with its sockets and what the descriptor store has."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import IO, TYPE_CHECKING, Self

from lab.testbed.running import ROOT, Agent
from tests.scenarios.descriptor_store import DescriptorStore

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

APART = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    (
        "mount -t tmpfs tmpfs /run; mkdir -p /run/systemd/journal; ln -s $0 /run/systemd/journal/socket; "
        'exec "$@"'
    ),
)


class Unit(Agent):
    """``start`` may be called again after an end: the next process gets what the store holds by then.

    ``program`` runs instead of ``agent.serve``, for faults that nothing real has at will. ``journal``:
    ``journal_socket`` stands in the place of the journal's, in a mount namespace of its own, and
    ``read_journal`` is called again and again while anybody waits.
    """

    def __init__(
        self,
        configuration: str | Callable[[Path], str],
        environ: dict[str, str] | None = None,
        program: str = "",
        *,
        journal: bool = False,
    ) -> None:
        super().__init__(configuration, environ)
        self._runs = ["-c", program] if program else ["-m", "agent.serve"]
        self.credentials = self.directory / "credentials.sock"
        self._listeners = {path.stem: _listen(path) for path in (self.app, self.control, self.credentials)}
        self.journal_socket = self.directory / "journal"
        self._apart = [*APART, str(self.journal_socket)] if journal else []
        self.read_journal: Callable[[], object] = lambda: None
        self._store = DescriptorStore(self.directory / "notify")

    def lose(self, *names: str) -> None:
        """Have systemd's unit of these sockets failed: nothing is there, nothing is handed over."""
        for name in names:
            self._listeners.pop(name).close()
            (self.directory / f"{name}.sock").unlink()

    @property
    def kept(self) -> list[str]:
        """The names of what systemd would keep now."""
        self._store.take_all()
        return [name for name, _ in self._store.kept]

    def until(self, condition: Callable[[], bool], seconds: float = 90.0) -> None:
        """Wait for a condition, as systemd would: it reads what it is sent."""

        def met() -> bool:
            self._store.take_all()
            self.read_journal()
            return condition()

        super().until(met, seconds)

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the process with everything that it inherits."""
        self._store.take_all()
        named = [
            *((name, listener.fileno()) for name, listener in self._listeners.items()),
            *self._store.kept,
        ]
        fds, stderr = [fd for _, fd in named], os.fstat(log.fileno())
        return subprocess.Popen(
            [
                *(*self._apart, sys.executable, "-c", _LAUNCH, str(len(fds)), *map(str, fds)),
                *(*self._runs, "--config", str(self.configuration)),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "LISTEN_FDS": str(len(fds)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in named),
                "NOTIFY_SOCKET": str(self.directory / "notify"),
                **({"JOURNAL_STREAM": f"{stderr.st_dev}:{stderr.st_ino}"} if self._apart else {}),
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
        connection.settimeout(90)
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
