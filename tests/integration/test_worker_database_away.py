"""PostgreSQL goes away in the middle of a look: the worker says so, and takes up what it had begun."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from deployer.database import rotations
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.postgresql import Postgresql
from lab.testbed.running import UnixConnection
from lab.testbed.workers import PAIR, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.fakes.proxy import Handler

GIVEN: str = '[SMTP_PASSWORD]\nkind = "external"\nrotate = "90d"\n'
LEASE: str = 'concurrency = 2\nsweep = "200ms"\nlease = "1h"\n'
"""Nobody would wait until this has run out."""


@dataclass(frozen=True)
class Stage:
    """A worker, its PostgreSQL and its Barbican."""

    server: Postgresql
    fake: FakeBarbican
    proxy: FaultProxy
    workers: Workers
    socket: Path
    """The worker's."""

    @contextlib.contextmanager
    def database_ends(self) -> Iterator[list[str]]:
        """Stop the database when the next version is made; yield where that was."""
        stopped: list[str] = []

        def stop_the_server(handler: Handler) -> None:
            if not stopped:
                stopped.append(handler.path)
                self.server.stop()
            handler.give(handler.fetch())

        with self.proxy.faulty(stop_the_server, "POST"):
            yield stopped

    def give(self, value: bytes) -> int:
        """Give a value; return the status."""
        connection = UnixConnection(self.socket, timeout=120.0)
        with contextlib.closing(connection):
            kind = {"Content-Type": "application/octet-stream"}
            connection.request("PUT", "/vps/vps-1/secrets/SMTP_PASSWORD", value, kind)
            return connection.getresponse().status


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """One whose worker is not started yet."""
    with (
        Postgresql() as server,
        FakeBarbican() as fake,
        FaultProxy(fake.url) as proxy,
        Workers(fake, tmp_path, server.url, worker=LEASE, barbican=proxy.url) as workers,
    ):
        yield Stage(server, fake, proxy, workers, tmp_path / "worker-0.sock")


def test_a_value_that_was_being_given_blocks_nothing(stage: Stage) -> None:
    """Whoever gave it is told, and gives it again as soon as the database answers."""
    workers = stage.workers
    workers.wish(["vps-1"], GIVEN)
    workers.start(0)
    workers.until(stage.socket.exists, "it never began")
    workers.until(lambda: stage.give(b"the first") == HTTPStatus.OK, "the first value is never taken")
    with stage.database_ends() as stopped:
        refused = stage.give(b"the second")
    assert (bool(stopped), refused >= HTTPStatus.INTERNAL_SERVER_ERROR) == (True, True)
    stage.server.start()
    workers.until(lambda: "answers again" in workers.log(), "it does not say so")
    assert stage.give(b"the third") == HTTPStatus.OK


def test_what_was_begun_is_taken_up_at_once(stage: Stage) -> None:
    """Not when the lease runs out; each due date has one version, and no person did anything."""
    server, fake, workers = stage.server, stage.fake, stage.workers
    workers.wish(["vps-1"], PAIR)
    process = workers.start(0)
    workers.until(workers.all_provisioned, "never provisioned")
    before = set(fake.secrets)
    with stage.database_ends() as stopped:
        assert workers.make_due() == 1
        workers.until(lambda: bool(stopped), "it never began")
        workers.until(lambda: "gives no session" in workers.log(), "it does not say what is away")
    assert process.poll() is None
    server.start()
    workers.until(lambda: workers.ended() == 1, "it was not taken up")
    with workers.database.read() as c:
        assert [order.state for order in rotations.page(c)] == ["listed"]
    for container in fake.containers.values():
        assert len({name.partition("~")[0] for name, _ in container.entries}) == len(container.entries)
    orders = [one.metadata["rotation"] for uuid, one in fake.secrets.items() if uuid not in before]
    assert len(set(orders)) == 1
    workers.until(lambda: "answers again; it was away for" in workers.log(), "it does not say so")
    assert workers.log().count("gives no session") < 5, "told by each task at each try"
