"""A worker that is killed, and started again on the same machine: what it had begun does not wait."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from deployer.core.schedule import DAY_S
from deployer.database import history, rotations, schema
from deployer.worker.__main__ import EXIT_CONFIGURATION
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.workers import PAIR, ROOT, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.testbed.fakes.proxy import Handler

VPS = "vps-1"
WAIT_S = 120.0


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A Barbican that can be disturbed."""
    with FakeBarbican() as fake, FaultProxy(fake.url) as made:
        made.fake = fake  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def workers(proxy: FaultProxy, tmp_path: Path) -> Iterator[Workers]:
    """A worker with a provisioned VPS. A lease lasts longer than any test waits."""
    more = 'concurrency = 2\nsweep = "200ms"\nlease = "1h"\n'
    fake: FakeBarbican = proxy.fake  # type: ignore[attr-defined]
    url = f"sqlite:///{tmp_path}/deployer.db"
    with Workers(fake, tmp_path, url, worker=more, barbican=proxy.url) as made:
        made.wish([VPS], PAIR)
        made.start(0)
        made.until(made.all_provisioned, "never provisioned")
        yield made


def kill_in_a_rotation(workers: Workers, proxy: FaultProxy) -> None:
    """Kill the worker when it has begun to make a version."""
    process = workers.processes[-1]

    def killing(handler: Handler) -> None:
        if handler.command == "GET":
            handler.give(handler.fetch())
            return
        process.send_signal(signal.SIGKILL)
        process.wait()
        handler.close_connection = True

    with proxy.faulty(killing):
        assert workers.make_due() == 1
        workers.until(lambda: process.poll() is not None, "it never began", WAIT_S)
    with workers.database.read() as c:
        (until,) = c.execute(select(schema.vps.c.lease_until)).scalars()
    assert until > 0, "it had the lease"


def test_it_deletes_what_ended_long_ago(workers: Workers) -> None:
    """By itself, when it starts: what is older than deployer.toml says, by default two years."""
    with workers.database.write() as c:
        history.note(c, time.time() - 731 * DAY_S, "olga", "old")
        history.note(c, time.time() - 729 * DAY_S, "olga", "kept")
    workers.processes[-1].kill()
    workers.processes[-1].wait()
    workers.start(0)

    def actions() -> set[str]:
        with workers.database.read() as c:
            return {row.action for row in history.page(c)}

    workers.until(lambda: "old" not in actions(), "it deletes nothing", WAIT_S)
    assert "kept" in actions()


def test_without_the_id_of_its_credential_it_says_so(workers: Workers, tmp_path: Path) -> None:
    """With the key: not as a login that Keystone refuses."""
    assert workers.processes
    lines = (tmp_path / "worker-0.toml").read_text().splitlines()
    path = tmp_path / "incomplete.toml"
    path.write_text("\n".join(one for one in lines if not one.startswith("application_credential_id")))
    command = [sys.executable, "-m", "deployer.worker", "--config", str(path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert ended.returncode == EXIT_CONFIGURATION
    assert f"{path}: worker.application_credential_id: is missing" in ended.stderr


def listed(workers: Workers) -> bool:
    """Tell whether the one rotation is listed."""
    with workers.database.read() as c:
        return {row.state for row in rotations.page(c)} == {"listed"}


def test_the_next_worker_goes_on_at_once(workers: Workers, proxy: FaultProxy) -> None:
    """It takes the leases of the one before it back, and says so; no lease has run out meanwhile."""
    kill_in_a_rotation(workers, proxy)
    workers.start(0)
    workers.until(lambda: listed(workers), "the rotation waits for the lease", WAIT_S)
    assert "goes on at once with 1 VPSs" in workers.log()


def test_another_worker_s_leases_are_left_alone(workers: Workers, proxy: FaultProxy) -> None:
    """One that listens elsewhere may be alive: its leases run out, or it ends."""
    kill_in_a_rotation(workers, proxy)
    workers.start(1)
    workers.until(lambda: (workers.log().count("the worker is ready")) == 2, "never ready", WAIT_S)
    with workers.database.read() as c:
        (owner,) = c.execute(select(schema.vps.c.lease_owner)).scalars()
    assert owner
    assert not listed(workers)
    assert "goes on at once" not in workers.log()
