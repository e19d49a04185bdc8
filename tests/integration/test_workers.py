"""Three workers on one PostgreSQL, killed, stopped, without their database: nothing is lost or doubled.

The size, by the environment (scripts/nightly): WORKERS_KILLS, WORKERS_ROTATIONS, WORKERS_AWAY (s).
"""

from __future__ import annotations

import collections
import os
import random
import signal
import time
from typing import TYPE_CHECKING, Final

import pytest

from deployer.database import rotations
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.postgresql import Postgresql
from lab.testbed.workers import LEASE_S, Workers, blueprint_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

WORKERS: Final = 3
GROUPS: Final = 5
KILLS: Final = int(os.environ.get("WORKERS_KILLS", "20"))
ROTATIONS: Final = int(os.environ.get("WORKERS_ROTATIONS", "150"))
AWAY_S: Final = float(os.environ.get("WORKERS_AWAY", "3"))
LONG_S: Final = 1200.0


@pytest.fixture
def server() -> Iterator[Postgresql]:
    """A PostgreSQL of the test's own."""
    with Postgresql() as made:
        yield made


@pytest.fixture
def workers(server: Postgresql, tmp_path: Path) -> Iterator[Workers]:
    """A fleet that is provisioned, and workers that run."""
    with FakeBarbican() as fake, Workers(fake, tmp_path, server.url) as made:
        made.wish([f"vps-{n:04}" for n in range(ROTATIONS // GROUPS)], blueprint_of(GROUPS))
        for number in range(WORKERS):
            made.start(number)
        made.until(made.all_provisioned, "never provisioned")
        yield made


def check(workers: Workers, due: int) -> None:
    """Hold what is there against what must be: one version for each due date, and no other way to it."""
    fake = workers.fake
    assert (fake.asked_for_payloads, fake.strange) == ([], [])
    with workers.database.read() as c:
        orders = rotations.page(c, limit=10 * due)
    assert collections.Counter(order.state for order in orders) == {"listed": due}
    listed = {
        (name.partition("~")[0], fake.secrets[version].metadata["rotation"]): version
        for container in fake.containers.values()
        for name, version in container.entries
    }
    for order in orders:
        for name in order.names:
            assert (f"{order.vps}/{name}", order.id) in listed, "it says that it is listed, and it is not"
    for container in fake.containers.values():
        names = [name.partition("~")[0] for name, _ in container.entries]
        assert len(names) == len(set(names)) == GROUPS + 1, "a double was not ended"
    for loss in fake.losses:
        left = collections.defaultdict(set)
        for name, rotation in loss.left:
            left[name.partition("~")[0]].add(rotation)
        lost = loss.entry.partition("~")[0]
        assert left[lost], f"{loss.entry} was removed before its successor was listed"
        pair = {f"{loss.container}/JWT_SECRET", f"{loss.container}/SESSION_SECRET"}
        if lost in pair:
            one, other = sorted(pair)
            assert left[one] & left[other], "half a group would have been served"
    assert "deadlock" not in workers.log().lower()
    assert "defect" not in workers.log()


def made_twice(workers: Workers) -> int:
    """Return how often a version was marked as ready a second time for one rotation."""
    return sum(count - 1 for count in workers.fake.made.values())


@pytest.mark.timeout(3600)
def test_killed_at_random(workers: Workers) -> None:
    """Each due rotation is listed once, whoever was killed meanwhile, and the doubles are ended."""
    draw = random.Random(0)
    due = workers.make_due()
    assert due == ROTATIONS // GROUPS * GROUPS
    for _ in range(KILLS):
        share = workers.ended()
        time.sleep(draw.uniform(0.05, 0.6))  # any moment of its work
        if share == due:
            due += workers.make_due()
        at = draw.randrange(WORKERS)
        workers.processes[at].kill()
        assert workers.processes[at].wait() == -signal.SIGKILL, workers.log()[-3000:]
        fresh = workers.start(at)
        workers.processes.remove(fresh)
        workers.processes[at] = fresh
    workers.until(lambda: workers.ended() == due, "not all were listed", LONG_S)
    check(workers, due)
    # a worker that was killed between marks and list has left one that nobody lists; the next look finds it
    assert made_twice(workers) == 0


@pytest.mark.timeout(3600)
def test_the_database_goes_away(workers: Workers, server: Postgresql) -> None:
    """The workers wait, and go on by themselves; nothing is made twice."""
    due = workers.make_due()
    workers.until(lambda: workers.ended() > 0, "never began")
    server.stop()
    time.sleep(AWAY_S)  # so long it is away
    assert [process.poll() for process in workers.processes] == [None] * WORKERS, workers.log()[-3000:]
    server.start()
    workers.until(lambda: workers.ended() == due, "not all were listed", LONG_S)
    check(workers, due)
    assert made_twice(workers) == 0


@pytest.mark.timeout(3600)
def test_a_worker_that_stood_still_does_no_harm(workers: Workers) -> None:
    """Its lease runs out, others go on, it comes back in the middle of a step: nothing is listed twice."""
    due = workers.make_due()
    workers.until(lambda: workers.ended() > 0, "never began")
    still = workers.processes[0]
    for _ in range(3):
        still.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_S + 1)  # until the lease has run out
        still.send_signal(signal.SIGCONT)
    workers.until(lambda: workers.ended() == due, "not all were listed", LONG_S)
    check(workers, due)
    assert [process.poll() for process in workers.processes] == [None] * WORKERS, workers.log()[-3000:]
