"""No record, no answer: what reads the agent's records stands still, goes away, and comes back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
from typing import IO, TYPE_CHECKING

import pytest

from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import ROOT, Agent, fake_configuration
from tests.integration.test_ready import setup_says
from tests.integration.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANTS = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\nunit = "consumer.service"\nsecrets = ["*"]\n'
MANY = 20_000
"""Requests that fill every queue there is."""


class Journal:
    """A stand-in for journald, for one unit: it reads when it is asked, and while others wait."""

    def __init__(self, unit: Unit) -> None:
        self._path = unit.journal_socket
        unit.read_journal = self.read
        self.entries: list[dict[str, str]] = []
        self.stands_still = False
        self._socket: socket.socket | None = None
        self.open()

    def open(self) -> None:
        """Make the socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(0)
        self._socket.bind(str(self._path))

    def close(self, *, leave: bool = False) -> None:
        """Read no more, at all; ``leave`` the file."""
        if self._socket is not None:
            self.read()
            self._socket.close()
            self._socket = None
        if not leave:
            self._path.unlink(missing_ok=True)

    def read(self) -> list[dict[str, str]]:
        """Return all entries so far."""
        if self._socket is None or self.stands_still:
            return self.entries
        with contextlib.suppress(BlockingIOError):
            while True:
                fields = self._socket.recv(1 << 20).decode().splitlines()
                self.entries.append(dict(field.split("=", 1) for field in fields))
        return self.entries

    def served(self) -> int:
        """Return how many reads of A were served by its records."""
        return len([e for e in self.read() if is_read(e) and e["VPS_SECRETS_OUTCOME"] == "served"])

    def said(self, words: str) -> bool:
        """Return whether the log has these words."""
        return any(words in entry["MESSAGE"] for entry in self.read())


def is_read(entry: dict[str, str]) -> bool:
    """Tell the records of reads from all else."""
    return entry.get("VPS_SECRETS_ACTION") == "/v1/secrets/A"


@pytest.fixture
def unit() -> Iterator[Unit]:
    """A unit that is not started."""
    world = World()
    world.put("A", b"canary")
    with Unit(lambda directory: fake_configuration(directory, world, GRANTS)[1], journal=True) as made:
        yield made
        assert "Traceback" not in made.log


def _until_refused(agent: Agent) -> int:
    """Read until a read is refused for want of a record; return how many were served."""
    for served in range(MANY):
        response = agent.get("/v1/secrets/A")
        if response.status != 200:
            assert (response.status, response.problem) == (503, "audit-unavailable")
            assert "no audit records" in response.json["detail"]
            assert "retry-after" in response.headers
            return served
    raise AssertionError("never refused")


def _look_at_status(agent: Agent) -> None:
    """While it lasts, the operator is told: here, in the metrics, and by the status line."""
    status = agent.status()
    assert [warning for warning in status["warnings"] if "no audit records" in warning]
    assert status["unrecorded"]["app"] >= 1
    assert "no audit records" in status["notReady"]
    code, text = setup_says(agent)
    assert code == 1, "what can't be given out is not set up"
    assert re.search("first reading  not ready: .*no audit records", text)
    assert "--vps-id" not in text, "the secrets are there"
    metrics = agent.ask_control("/metrics").body.decode()
    assert "vps_secrets_audit_unavailable 1" in metrics
    assert 'vps_secrets_unrecorded_total{door="app"}' in metrics
    assert "vps_secrets_ready 0" in metrics, "nobody can rely on values that are not given out"
    assert "no audit records" in agent.ask_control("/v1/refresh", method="POST").json["notReady"]
    assert agent.get("/v1/health/ready").status == 503


@pytest.mark.parametrize("how", ["stands still", "is removed", "is closed"])
def test_a_journal_that_takes_nothing(unit: Unit, how: str) -> None:
    """Every 200 has its record; afterwards all is as before: reads, the log, and the status at the end."""
    with contextlib.closing(Journal(unit)) as journal:
        unit.start().until_ready()
        assert unit.get("/v1/secrets/A").status == 200
        served = 1
        if how == "stands still":
            journal.stands_still = True
        else:
            journal.close(leave=how == "is closed")
        served += _until_refused(unit)
        assert unit.get("/v1/secrets/A").problem == "audit-unavailable"
        _look_at_status(unit)
        unit.signal(signal.SIGHUP)
        unit.until(lambda: unit.status()["cycles"]["total"] >= 2)
        journal.stands_still = False
        if how != "stands still":
            journal.close()
            journal.open()
        unit.until(lambda: unit.get("/v1/secrets/A").status == 200)
        served += 1
        unit.until(lambda: journal.said("configuration loaded again"))
        unit.until(lambda: journal.served() == served)
        assert not [w for w in unit.status()["warnings"] if "no audit records" in w]
        assert unit.get("/v1/health/ready").status == 200
        unit.until(lambda: any(e.get("VPS_SECRETS_ACTION") == "/v1/status" for e in journal.read()))
        assert not [e for e in journal.read() if e.get("VPS_SECRETS_ACTION") == "/metrics"], (
            "a scrape is no line"
        )
        assert unit.stop() == 0
        assert journal.said("stopping")


def test_a_credential_without_a_record_is_refused(unit: Unit) -> None:
    """Not by silence, which would be an empty one."""
    with contextlib.closing(Journal(unit)) as journal:
        unit.start().until_ready()
        journal.stands_still = True
        _until_refused(unit)
        with contextlib.closing(unit.load_credential("consumer.service", "A")) as connection:
            received = 0
            while chunk := connection.recv(65536):
                received += len(chunk)
        assert received > 1024 * 1024
        journal.stands_still = False
        assert unit.status()["unrecorded"]["credentials"] == 1
        assert unit.stop() == 0


def test_a_journal_that_is_slow_for_a_moment_costs_nobody_an_answer(unit: Unit) -> None:
    """More reads than its queue holds: they wait for it, and each is served."""
    with contextlib.closing(Journal(unit)) as journal:
        unit.start().until_ready()
        reads = subprocess.Popen(
            [sys.executable, "-c", READS, str(unit.app), "3000"], cwd=ROOT, stdout=subprocess.PIPE
        )
        while reads.poll() is None:
            journal.read()
        assert reads.communicate()[0].split() == [b"3000"]
        unit.until(lambda: journal.served() == 3000)
        assert unit.stop() == 0


READS = """
import sys, pathlib
from lab.testbed.running import UnixConnection
connection, good = UnixConnection(pathlib.Path(sys.argv[1])), 0
for _ in range(int(sys.argv[2])):
    connection.request("GET", "/v1/secrets/A")
    answer = connection.getresponse()
    answer.read()
    good += answer.status == 200
print(good)
"""


class Piped(Agent):
    """An agent whose standard error is a pipe."""

    reader: int

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start it with the pipe."""
        del log
        self.reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as pipe:
            return super().launch(pipe)


@pytest.mark.parametrize("how", ["is never read", "is closed"])
def test_standard_error_that_takes_nothing(how: str) -> None:
    """Outside systemd that is the records' place; the pipe of others is not set to O_NONBLOCK."""
    world = World()
    world.put("A", b"canary")
    with Piped(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as agent:
        agent.start().until_ready()
        assert not fcntl.fcntl(agent.reader, fcntl.F_GETFL) & os.O_NONBLOCK
        if how == "is closed":
            os.close(agent.reader)
        _until_refused(agent)
        _look_at_status(agent)
        if how == "is never read":
            with os.fdopen(agent.reader, "rb") as reader:
                os.set_blocking(reader.fileno(), False)
                agent.until(lambda: bool(reader.read()) and agent.get("/v1/secrets/A").status == 200)
                assert agent.stop() == 0
        else:
            assert agent.stop() == 0


def test_systemd_that_reads_nothing_stops_nothing(unit: Unit) -> None:
    """Its socket is full: readings, reloads and reads go on."""
    with contextlib.closing(Journal(unit)) as journal:
        unit.start().until_ready()
        notify = Agent.until
        for _ in range(30):
            total = unit.status()["cycles"]["total"]
            unit.signal(signal.SIGHUP)
            notify(unit, lambda total=total: unit.status()["cycles"]["total"] > total)  # type: ignore[misc]
            journal.read()
        assert unit.get("/v1/secrets/A").status == 200
        assert unit.stop() == 0
