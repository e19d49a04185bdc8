"""PostgreSQL goes away in the middle of a look: the worker says so, and takes up what it had begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.database import rotations
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.postgresql import Postgresql
from lab.testbed.workers import PAIR, Workers

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.fakes.proxy import Handler

LEASE: str = 'concurrency = 2\nsweep = "200ms"\nlease = "1h"\n'
"""Nobody would wait until this has run out."""


def test_what_was_begun_is_taken_up_at_once(tmp_path: Path) -> None:
    """Not when the lease runs out; each due date has one version, and no person did anything."""
    with (
        Postgresql() as server,
        FakeBarbican() as fake,
        FaultProxy(fake.url) as proxy,
        Workers(fake, tmp_path, server.url, worker=LEASE, barbican=proxy.url) as workers,
    ):
        workers.wish(["vps-1"], PAIR)
        process = workers.start(0)
        workers.until(workers.all_provisioned, "never provisioned")
        before = set(fake.secrets)
        stopped: list[str] = []

        def stop_the_server(handler: Handler) -> None:
            if not stopped:
                stopped.append(handler.path)
                server.stop()
            handler.give(handler.fetch())

        with proxy.faulty(stop_the_server, "POST"):  # a version is being made
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
