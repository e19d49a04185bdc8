"""A stand-in for systemd, for the agent alone: sockets, the descriptor store, restarts, one fetch per cycle.

``python -m tests.scenarios.machine --config PATH [--clocks PATH] [--watchdog]``, its directory being the
configuration's. With ``--watchdog`` serve is told of a watchdog of two seconds, which nobody enforces.
Both programs are the real ones, forked from this process, which has imported them: a restart then costs
milliseconds, and kills fall into their work instead of into Python's imports. Sockets, descriptors and
messages are as sd_listen_fds(3) and sd_notify(3) say.

Standard input takes ``SIGNAL PROGRAM`` (``KILL serve``, ``HUP serve``, ``KILL fetch``); its end ends it all.
Standard output tells each start, ``started serve``, and each signal, ``sent serve COUNT``: to how many.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.fetch import __main__ as fetch_program
from agent.fetch import cycle, payloads, verdict
from agent.serve import __main__ as serve_program
from agent.serve.host.fdstore import FIRST
from tests.scenarios.clocks import Clocks
from tests.scenarios.descriptor_store import DescriptorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOADED = (verdict, cycle, payloads)
"""What fetch imports when it needs it, imported once for all its processes."""
WATCHDOG_USEC = "2000000"
_HIGH = 200


class Machine:
    """Runs serve, again whenever it ends, and fetch for each connection."""

    def __init__(self, config: Path, clocks: Path | None, *, watchdog: bool = False) -> None:
        self._config, self._clocks, self._watchdog = config, clocks, watchdog
        self._store = DescriptorStore(config.parent / "notify")
        self._doors = {name: _listen(config.parent / f"{name}.sock") for name in ("app", "control")}
        self._fetch = _listen(config.parent / "fetch.sock")
        self._children: dict[int, str] = {}

    def run(self) -> None:
        """Run until standard input ends."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            for source in (0, wake, self._store.socket, self._fetch):
                selector.register(source, selectors.EVENT_READ)
            self._start_serve()
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if wake in ready:
                    os.read(wake, 4096)
                if 0 in ready and not self._obey():
                    break
                self._store.take_all()  # before a successor starts: it gets all that was sent
                self._reap()
                if self._fetch in ready:
                    self._start_fetch()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if self._children.pop(pid) == "serve":
                    self._store.take_all()
                    self._start_serve()

    def _obey(self) -> bool:
        """Send the signals that are asked for; only a process that was not waited for yet gets one."""
        orders = os.read(0, 4096).decode()
        for order in orders.splitlines():
            name, program = order.split()
            found = [pid for pid, what in self._children.items() if what == program]
            for pid in found:
                os.kill(pid, signal.Signals[f"SIG{name}"])
            _tell(f"sent {program} {len(found)}")
        return bool(orders)

    def _start_serve(self) -> None:
        named = [*((name, listener.fileno()) for name, listener in self._doors.items()), *self._store.kept]
        environ = {
            "LISTEN_FDS": str(len(named)),
            "LISTEN_FDNAMES": ":".join(name for name, _ in named),
            "NOTIFY_SOCKET": str(self._config.parent / "notify"),
        }
        if self._watchdog:
            environ["WATCHDOG_USEC"] = WATCHDOG_USEC

        def program() -> int:
            os.environ.update(environ, LISTEN_PID=str(os.getpid()))
            if self._clocks is not None:
                Clocks(self._clocks).install()
            return serve_program.main(["--config", str(self._config)])

        self._fork("serve", program, FIRST, [fd for _, fd in named])

    def _start_fetch(self) -> None:
        with contextlib.suppress(BlockingIOError):
            connection, _ = self._fetch.accept()
            with connection:
                ends = [connection.fileno()] * 2
                self._fork("fetch", lambda: fetch_program.main(["--config", str(self._config)]), 0, ends)

    def _fork(self, name: str, program: Callable[[], int], first: int, fds: Sequence[int]) -> None:
        """Run a program in a process that has these descriptors, from ``first`` on, and standard error."""
        pid = os.fork()
        if pid:
            self._children[pid] = name
            _tell(f"started {name}")
            return
        status = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _arrange(first, fds)
            status = program()
        finally:
            os._exit(status)


def _arrange(first: int, fds: Sequence[int]) -> None:
    high = [os.dup2(fd, _HIGH + number) for number, fd in enumerate(fds)]
    for number, fd in enumerate(high):
        os.dup2(fd, first + number)
    os.closerange(max(FIRST, first + len(fds)), _HIGH + len(fds))
    if first > 0:
        os.dup2(2, 1)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(1024)
    return listener


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run the machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--clocks", type=Path)
    parser.add_argument("--watchdog", action="store_true")
    options = parser.parse_args()
    Machine(options.config, options.clocks, watchdog=options.watchdog).run()


if __name__ == "__main__":
    main()
