"""The runner: one VPS on a real Keystone and Barbican, with a proxy in front of each, through a bad day.

The agent runs as under systemd (tests/scenarios/machine.py), by clocks that hurry through its waits. A reader
writes down what the application sees; in the end the table goes to build/scenarios, its summary is printed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import IO, TYPE_CHECKING, Any, Self

from lab.testbed.fakes import faults
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.running import ROOT, Agent, Response
from tests.scenarios.clocks import Clocks
from tests.scenarios.reader import Reader

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from deployer.cloud.secrets import Vps
    from lab.testbed.cloud import Cloud

TABLES = ROOT / "build" / "scenarios"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
WAIT_S = 60.0
"""How long (real) anything may take that has to happen."""


class Machine(Agent):
    """The agent under the stand-in for systemd. ``started`` counts serve and fetch, ``sent`` signals."""

    def __init__(
        self, configuration: Callable[[Path], str], factor: float, *, watchdog: bool = False
    ) -> None:
        super().__init__(configuration)
        self._watchdog = ["--watchdog"] if watchdog else []
        self.started: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self._clock_file = self.directory / "clocks"
        self.clocks = Clocks(self._clock_file, factor)

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start the stand-in, which starts the agent."""
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.scenarios.machine"),
                *("--config", self.configuration, "--clocks", self._clock_file),
                *self._watchdog,
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        threading.Thread(target=self._listen, args=(process.stdout,), daemon=True).start()
        return process

    def _listen(self, told: IO[bytes]) -> None:
        with told:
            for line in told:
                what, program, *count = line.decode().split()
                if what == "started":
                    self.started[program] += 1
                else:
                    self.sent[program] += int(count[0])
                    self.sent["orders"] += 1

    def send(self, name: str, program: str = "serve") -> int:
        """Send a signal such as KILL to a program; return how many processes got it."""
        assert self.process is not None
        assert self.process.stdin is not None
        before = self.sent[program]
        orders = self.sent["orders"]
        self.process.stdin.write(f"{name} {program}\n".encode())
        self.process.stdin.flush()
        self.until(lambda: self.sent["orders"] > orders, WAIT_S)
        return self.sent[program] - before

    def __exit__(self, *exit_: object) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(WAIT_S)
        super().__exit__(*exit_)


class Scenario:
    """One VPS and its day. Use as a context manager; ``start`` starts the agent.

    ``values`` are what is in Barbican at first. ``factor`` is how fast the clocks run while the agent waits.
    ``settings`` are further tables of its configuration. ``tls`` is what the proxies speak. With ``watchdog``
    it has one, as under systemd.
    """

    def __init__(
        self,
        cloud: Cloud,
        name: str,
        values: Mapping[str, bytes],
        *,
        factor: float = 60.0,
        settings: str = "",
        tls: ssl.SSLContext | None = None,
        ca_file: Path | None = None,
        seen: Callable[[str, Response], None] = lambda *_: None,
        watchdog: bool = False,
    ) -> None:
        self.cloud, self.name, self.values = cloud, name, values
        self._settings, self._ca_file = settings, ca_file
        self.vps: Vps = cloud.vps(f"vps-{secrets.token_hex(4)}", values)
        self.machine = Machine(self._configuration, factor, watchdog=watchdog)
        self.now = self.machine.clocks.boot
        self.keystone = FaultProxy(cloud.auth_url, "keystone", tls=tls, now=self.now)
        self.barbican = FaultProxy(cloud.testbed.places.barbican_url, tls=tls, now=self.now)
        self.reader = Reader(self.machine.app, list(values), self.now, seen)
        self._stack = contextlib.ExitStack()

    def _configuration(self, directory: Path) -> str:
        text = self.cloud.configuration(self.vps, directory)
        keystone = f'endpoint_override = "{self.barbican.url}"\n'
        if self._ca_file is not None:
            keystone += f'ca_file = "{self._ca_file}"\n'
        grant = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
        fetch = f'[fetch]\nsocket = "{directory}/fetch.sock"\ntimeout = "4s"\nconnect_timeout = "2s"\n'
        text = text.replace(self.cloud.auth_url, self.keystone.url).replace("[app]", f"{keystone}[app]")
        return f"{text}{fetch}{self._settings}{grant}"

    def reload(self, change: Callable[[str], str] = lambda text: text) -> None:
        """Write the configuration anew, changed, and have the agent load it; it reads Barbican then."""
        self.machine.write(change(self._configuration(self.machine.directory)))
        cycles = self.status()["cycles"]["total"]
        self.machine.send("HUP")
        self.until(lambda: self.status()["cycles"]["total"] > cycles)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for resource in (self.machine, self.keystone, self.barbican):
                stack.enter_context(resource)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            if self.reader.reads:
                self.reader.stop()
                self.reader.write(TABLES / f"{self.name}.jsonl")
                sys.stdout.write(f"{self.name}: {json.dumps(self.reader.summary())}\n")
            for value in self.values.values():
                assert len(value) < 8 or (value.decode() in self.machine.log) is False

    def start(self, *, ready: bool = True) -> Self:
        """Start the agent, and the reader once the agent serves."""
        self.machine.start()
        if ready:
            self.machine.until_ready()
            self.read()
        return self

    def read(self) -> None:
        """Start the reader."""
        self.reader.start()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition."""
        self.machine.until(condition, WAIT_S)

    def until_clock(self, moment: float) -> None:
        """Wait until the agent's clock shows this (s)."""
        self.machine.until(lambda: self.now() >= moment, 10 * WAIT_S)

    def status(self) -> Any:
        """Return the agent's status."""
        return self.machine.status()

    def refresh(self) -> Response:
        """Have the agent read Barbican once, now."""
        answers = []

        def asked() -> bool:
            answers.append(self.machine.ask_control("/v1/refresh", "POST"))
            return answers[-1].status != 429

        self.until(asked)
        return answers[-1]

    def failure(self) -> dict[str, Any]:
        """Have the agent read Barbican, which must fail, and return how."""
        refreshed = self.refresh()
        assert refreshed.status == 502, refreshed
        found: dict[str, Any] = refreshed.json["failure"]
        return found

    @contextlib.contextmanager
    def away(self, *services: str) -> Iterator[None]:
        """Have services refuse connections, as seen by the agent, while the block lasts."""
        with contextlib.ExitStack() as stack:
            for service in services:
                stack.enter_context(getattr(self, service).faulty(faults.hanging_up))
            yield

    def holds(self, values: Mapping[str, bytes]) -> bool:
        """Return whether the application gets exactly these values."""
        answer = self.machine.get("/v1/bundle")
        if answer.status != 200:
            return False
        found = {name: _digest(value.encode()) for name, value in answer.json["secrets"].items()}
        return found == {name: _digest(value) for name, value in values.items()}

    def pause(self, seconds: float) -> None:
        """Let real time pass, where nothing can be waited for."""
        time.sleep(seconds)


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
