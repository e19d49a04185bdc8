"""Every way out of the process, and the hand-over to a configuration: no signal and no connection is lost."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Failure, Fault, Step
from lab.testbed.fakes.fetch_server import FetchServer, World
from lab.testbed.running import fake_configuration
from tests.integration.test_refusals import Broken
from tests.integration.unit import Unit

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

GRANTS = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\nunit = "consumer.service"\nsecrets = ["*"]\n'
TOO_MUCH = 1024 * 1024
"""systemd.exec(5): more than this is no credential, and the unit fails."""
AWAY = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "wait", 503)


class Running:
    """A unit over one world; its fetch program outlives it."""

    def __init__(self, program: str = "") -> None:
        self.world = World()
        self.world.put("A", b"canary")
        self.good = ""
        self.server: FetchServer | None = None
        self.unit = Unit(self._configure, program=program)

    def _configure(self, directory: Path) -> str:
        if self.server is None:
            self.server, self.good = fake_configuration(directory, self.world, GRANTS)
        return self.good

    def start_unconfigured(self) -> None:
        """Start it over a configuration with a mistake."""
        text, self.good = self._configure(self.unit.directory) + "nonsense = 1\n", self.good
        good, self.good = self.good, text
        self.unit.start(wait=False)
        self.good = good
        self.unit.until(lambda: self.unit.ask_control("/v1/status").problem == "not-configured")

    def end(self) -> int:
        """Return the exit status, once it has ended."""
        assert self.unit.process is not None
        return self.unit.process.wait(30)


@pytest.fixture
def running() -> Iterator[Running]:
    """Nothing yet."""
    made = Running()
    with made.unit:
        yield made


def _all_of(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
        if len(received) > TOO_MUCH:
            break
    return received


def _ends_open(connection: socket.socket) -> bool:
    """Return whether neither data nor an end has come."""
    connection.settimeout(0)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    finally:
        connection.settimeout(90)
    return False


def _takes_signals(pid: int) -> bool:
    """Return whether a SIGHUP would not end the process: it is blocked, or handled (proc(5))."""
    masks = dict(
        line.split(":\t")
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line[:3] == "Sig"
    )
    return any(int(masks.get(key, "0"), 16) >> (signal.SIGHUP - 1) & 1 for key in ("SigBlk", "SigCgt"))


@pytest.mark.parametrize("_round", range(3))
def test_signals_without_a_pause_end_nothing(running: Running, _round: int) -> None:
    """From the first line of the program on, over the hand-over to a configuration, to the first reading."""
    running.start_unconfigured()
    process, over = running.unit.process, threading.Event()
    assert process is not None

    def flood() -> None:
        while not over.wait(0.001):
            process.send_signal(signal.SIGHUP)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        running.unit.write(running.good)
        running.unit.until(lambda: "serving vps-prod-001" in running.unit.log, 60)
    finally:
        over.set()
        flooding.join()
    running.unit.until(lambda: running.unit.get("/v1/secrets/A").status == 200)
    assert running.unit.stop() == 0


def test_a_start_under_signals(running: Running) -> None:
    """What comes before the loop is there waits for it: the agent reads its configuration again."""
    running.unit.start(wait=False)
    process = running.unit.process
    assert process is not None
    running.unit.until(lambda: _takes_signals(process.pid))
    process.send_signal(signal.SIGHUP)
    running.unit.until(lambda: "configuration loaded again" in running.unit.log, 60)
    process.send_signal(signal.SIGHUP)
    assert running.unit.stop() == 0


def test_a_stop_in_the_hand_over(running: Running) -> None:
    """Both at once: whichever comes first, it ends in order."""
    running.start_unconfigured()
    running.unit.write(running.good)
    running.unit.signal(signal.SIGHUP)
    running.unit.signal(signal.SIGTERM)
    assert running.end() == 0


def _held(running: Running) -> socket.socket:
    """Start it while Barbican is away, and have a connection held."""
    running.world.failure = AWAY
    running.unit.start()
    connection = running.unit.load_credential("consumer.service", "A")
    running.unit.until(lambda: any(name.startswith("held-") for name in running.unit.kept))
    return connection


def _kill(running: Running) -> None:
    running.unit.signal(signal.SIGKILL)
    running.end()


def test_a_held_connection_is_answered_after_kills(running: Running) -> None:
    """By whichever process has the secret, once."""
    with contextlib.closing(_held(running)) as connection:
        for _ in range(2):
            _kill(running)
            running.unit.start()
            running.unit.until(lambda: running.unit.status()["connections"].get("credentials") == 1)
        assert _ends_open(connection)
        running.world.failure = None
        running.unit.signal(signal.SIGHUP)
        assert _all_of(connection) == b"canary"
        running.unit.until(lambda: not [name for name in running.unit.kept if name.startswith("held-")])
    assert running.unit.stop() == 0


def test_an_unconfigured_agent_that_is_stopped_refuses_what_it_inherited(running: Running) -> None:
    """An empty credential would let the unit start; it waits for a configuration as long as there is hope."""
    with contextlib.closing(_held(running)) as connection:
        _kill(running)
        running.start_unconfigured()
        assert _ends_open(connection)
        running.unit.signal(signal.SIGTERM)
        assert len(_all_of(connection)) > TOO_MUCH
        assert running.end() == 0


def test_an_unconfigured_agent_that_is_configured_answers_what_it_inherited(running: Running) -> None:
    """The connection goes through all three."""
    with contextlib.closing(_held(running)) as connection:
        _kill(running)
        running.start_unconfigured()
        running.world.failure = None
        running.unit.write(running.good)
        running.unit.signal(signal.SIGHUP)
        assert _all_of(connection) == b"canary"
        running.unit.until_ready()
    assert running.unit.stop() == 0


def test_an_agent_that_is_stopped_refuses_what_it_holds(running: Running) -> None:
    """It can't know whether another one will follow."""
    with contextlib.closing(_held(running)) as connection:
        running.unit.signal(signal.SIGTERM)
        assert len(_all_of(connection)) > TOO_MUCH
        assert running.end() == 0


def test_an_agent_that_fails_hands_on_what_it_holds() -> None:
    """The next one is started at once, and answers."""
    running = Running(Broken.PROGRAM)
    with running.unit, contextlib.closing(_held(running)) as connection:
        broken = Path(f"{running.unit.configuration}.broken")
        broken.touch()
        running.unit.signal(signal.SIGHUP)
        assert running.end() == 1
        assert _ends_open(connection)
        broken.unlink()
        running.world.failure = None
        running.unit.start()
        assert _all_of(connection) == b"canary"
        assert running.unit.stop() == 0


def test_a_credential_waits_for_a_descriptor(running: Running) -> None:
    """It is not accepted while the agent has none left, then answered."""
    running.unit.start().until_ready()
    assert running.unit.process is not None
    pid = running.unit.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
    lowest = next(number for number in range(max(used) + 2) if number not in used)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
    with contextlib.closing(running.unit.load_credential("consumer.service", "A")) as connection:
        running.unit.until(lambda: "no connection can be accepted for 1 s" in running.unit.log)
        assert _ends_open(connection)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert _all_of(connection) == b"canary"
    assert "unhandled" not in running.unit.log
    assert running.unit.stop() == 0
