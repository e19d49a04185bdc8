"""A kernel that refuses descriptors or memory to the running agent at the worst moment."""

from __future__ import annotations

import contextlib
import http.client
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

from agent.core.errors import Failure, Fault, Step
from agent.core.rotation import Unread
from lab.testbed.fakes.fetch_server import FetchServer, World
from lab.testbed.running import ROOT, Agent, Response, UnixConnection, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = """
[rotation]
poll_interval = "1h"
previous_grace = "4s"
[staleness]
revocation_grace = "4s"
[app.limits]
idle_timeout = "5m"
[[grant]]
user = "root"
secrets = ["*"]
"""
DENIED = Failure(Step.PERMISSION, Fault.DENIED, "to read the container", "restore the ACL", 403)
LIMITS = {
    "descriptors": resource.RLIMIT_NOFILE,
    "memory": resource.RLIMIT_AS,
    "locked memory": resource.RLIMIT_MEMLOCK,
}


class Kept:
    """A connection that was there before: a new one needs a descriptor."""

    def __init__(self, path: Path) -> None:
        self._connection = UnixConnection(path)
        self.get("/v1/health/live")

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def get(self, target: str, method: str = "GET") -> Response:
        """Ask on it."""
        self._connection.request(method, target)
        answer = self._connection.getresponse()
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


class Running:
    """An agent with two secrets, one connection, and limits that a test may lower."""

    def __init__(self) -> None:
        self.world = World()
        self.world.put("A", b"canary-one")
        self.world.put("B", b"canary-b")
        self.agent = Agent(self._configure)
        self.server: FetchServer

    def _configure(self, directory: Path) -> str:
        self.server, text = fake_configuration(directory, self.world, SETTINGS)
        return text

    def kept(self) -> contextlib.closing[Kept]:
        """Connect to the app socket."""
        return contextlib.closing(Kept(self.agent.app))

    @contextlib.contextmanager
    def refusing(self, kind: str) -> Iterator[None]:
        """Have the kernel refuse this to the agent, from now on."""
        assert self.agent.process is not None
        pid, limit = self.agent.process.pid, LIMITS[kind]
        if kind == "descriptors":
            used = {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}
            lowest = next(number for number in range(max(used) + 2) if number not in used)
        elif kind == "locked memory":
            lowest = 0
        else:
            lowest = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.prlimit(pid, limit)
        resource.prlimit(pid, limit, (lowest, before[1]))
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, limit, before)

    def goes_on(self) -> None:
        """It reads again after a signal and after a refresh, publishes what is new, and is watched over."""
        self.world.failure = None
        self.world.unread.clear()
        self.world.rotate("B", b"canary-b-two")
        total = self.agent.status()["cycles"]["total"]
        self.agent.signal(signal.SIGHUP)
        self.agent.until(lambda: self.agent.status()["cycles"]["total"] > total, 60)
        self.agent.until(lambda: self.agent.ask_control("/v1/refresh", "POST").status == 200, 60)
        assert self.agent.get("/v1/secrets/B").body == b"canary-b-two"
        assert self.agent.stop() == 0


@pytest.fixture
def running() -> Iterator[Running]:
    """A running agent that is ready; whatever happens, it writes neither a traceback nor a value."""
    made = Running()
    with made.agent:
        made.agent.start().until_ready()
        yield made
        assert "Traceback" not in made.agent.log
        assert ("canary" in made.agent.log) is False


@pytest.mark.parametrize("kind", LIMITS)
def test_a_grace_that_ends(running: Running, kind: str) -> None:
    """The previous version is wiped on time; the current ones are served on, and the refresher lives."""
    running.world.rotate("A", b"canary-two")
    running.agent.ask_control("/v1/refresh", "POST")
    with running.kept() as kept, running.refusing(kind):
        running.agent.until(lambda: kept.get("/v1/secrets/A?version=previous").status == 404, 60)
        assert kept.get("/v1/secrets/A").body == b"canary-two"
        assert kept.get("/v1/secrets/B").body == b"canary-b"
    running.goes_on()


@pytest.mark.parametrize("kind", LIMITS)
def test_access_that_was_taken_away(running: Running, kind: str) -> None:
    """Everything goes when its grace has ended."""
    running.world.failure = DENIED
    running.agent.ask_control("/v1/refresh", "POST")
    with running.kept() as kept, running.refusing(kind):
        running.agent.until(lambda: kept.get("/v1/secrets/A").status == 404, 60)
        assert kept.get("/v1/secrets/B").status == 404
    running.goes_on()


@pytest.mark.parametrize("kind", LIMITS)
def test_one_payload_that_was_taken_away(running: Running, kind: str) -> None:
    """It goes, the other one is served on."""
    running.world.unread[running.world.rotate("A", b"canary-two")] = Unread.DENIED
    running.agent.ask_control("/v1/refresh", "POST")
    with running.kept() as kept, running.refusing(kind):
        running.agent.until(lambda: kept.get("/v1/secrets/A").status != 200, 60)
        assert kept.get("/v1/secrets/B").body == b"canary-b"
    running.goes_on()


class Broken(Agent):
    """An agent whose refresher finds no memory once there is a file: nothing real does that at will."""

    PROGRAM = """
import pathlib, sys
from agent.core import rotation
from agent.serve.__main__ import main
overdue = rotation.overdue
def refused(*args):
    if pathlib.Path(sys.argv[2] + ".broken").exists():
        raise MemoryError
    return overdue(*args)
rotation.overdue = refused
sys.exit(main())
"""

    def launch(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start it."""
        command = [sys.executable, "-c", self.PROGRAM, "--config", str(self.configuration)]
        return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def test_a_part_that_ends_ends_the_agent() -> None:
    """Whoever waits is answered without a value; the error is told by type and place; the status is 1."""
    world = World()
    world.put("A", b"canary")
    with Broken(lambda directory: fake_configuration(directory, world, SETTINGS)[1]) as agent:
        agent.start().until_ready()
        assert agent.process is not None
        with contextlib.closing(Kept(agent.app)) as kept:
            Path(f"{agent.configuration}.broken").touch()
            response = agent.ask_control("/v1/refresh", "POST")
            assert (response.status, response.problem) in {(200, ""), (500, "internal")}
            # the refresh may have been answered a moment before the part ends
            with contextlib.suppress(http.client.HTTPException, OSError):
                agent.until(lambda: kept.get("/v1/secrets/A").status != 200 or agent.process is None)
        assert agent.process.wait(20) == 1
        assert "the refresher has ended, report this bug: MemoryError at " in agent.log
        assert "Traceback" not in agent.log
