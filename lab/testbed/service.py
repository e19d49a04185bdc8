"""One service of the testbed as a child process: start, wait until it listens, signal, end.

Owns the process and its pipes. Standard library only. Invariant: the child never outlives this process,
because it ends when its stdin does, however this process ends.
"""

import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
LOG_TAIL = 3000


class TestbedError(Exception):
    """A service did not start or did not end; the text has the end of its log."""

    __test__ = False  # not a test case, whatever its name


class Service:
    """Keystone or Barbican. `start` begins it, `wait_ready` blocks until its port listens."""

    def __init__(self, name: str, python: Path, parameters: dict[str, Any]) -> None:
        self.name = name
        self.log = Path(parameters["directory"]) / f"{name}.log"
        self.phases: dict[str, float] = {}
        """Seconds that each phase of the last start took."""
        self._python = python
        self._parameters = parameters
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while the service runs, else None."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self) -> None:
        """Start the process; it is not ready yet.

        Raises:
            TestbedError: the server environment is not there, or the service is running already.
        """
        if self.pid is not None:
            raise TestbedError(f"{self.name} is running already")
        if not self._python.exists():
            raise TestbedError(f"{self._python} is missing: run scripts/setup first")
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("OS_", "PYTHON"))
        }
        environment["HOME"] = str(Path(self._parameters["directory"]) / "home")
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C at the terminal reaches the parent only, which ends it in order.
            self._process = subprocess.Popen(
                [self._python, "-I", "-W", "ignore", CHILD, self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                umask=0o077,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._parameters).encode() + b"\n")
        self._process.stdin.flush()

    def wait_ready(self, timeout: float = 60) -> None:
        """Block until the port listens.

        Raises:
            TestbedError: the process ended, or was not ready after `timeout` seconds.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as ready:
            told = bool(select.select([ready], [], [], timeout)[0])
            line = ready.readline() if told else b""
        if not line:
            self.end(signal.SIGKILL)
            what = "ended while starting" if told else f"was not ready after {timeout:g} s"
            raise TestbedError(f"{self.name} {what}; its log ends:\n{self.log_tail()}")
        self.phases = json.loads(line)

    def log_tail(self) -> str:
        """Return the end of the service's log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    def send(self, number: signal.Signals) -> None:
        """Send a signal, for example SIGSTOP for a service that hangs; no effect when it is down."""
        if self._process is not None:
            self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM, timeout: float = 5) -> None:
        """End the process and wait for it; one that ignores the signal for `timeout` seconds is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a stopped process would not see SIGTERM
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def restart(self) -> float:
        """End it when it runs, start it on the same data and port; return the seconds until it was ready."""
        began = time.monotonic()
        self.end()
        self.start()
        self.wait_ready()
        return time.monotonic() - began
