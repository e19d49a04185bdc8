"""The worker, killed after each change that it makes in the real Barbican: nothing is lost or made twice."""

from __future__ import annotations

import functools
import signal
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from common.names import SecretName, Version
from deployer.cloud.barbican import Barbican
from deployer.database import blueprints, rotations, vpses
from deployer.database.schema import vps as vps_table
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.site import Site

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.testbed.cloud import Cloud
    from lab.testbed.fakes.proxy import Handler

pytestmark = pytest.mark.long

TEXT = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
group = "session"
"""
VPS = "vps-killed-001"
NAMES = [SecretName("JWT_SECRET"), SecretName("SESSION_SECRET")]
WAIT_S = 60.0


class Killing:
    """Kills the worker when it has made so many changes: Barbican has done the last one, nobody is told."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.left = -1

    def __call__(self, handler: Handler) -> None:
        """Pass a request on; kill instead of the answer when its turn has come."""
        real = handler.fetch()
        if handler.command != "GET" and self.left > 0:
            self.left -= 1
            if self.left == 0 and self.process is not None:
                self.process.send_signal(signal.SIGKILL)
                self.process.wait()
                handler.close_connection = True
                return
        handler.give(real)


@pytest.fixture
def killing() -> Killing:
    """What kills."""
    return Killing()


@pytest.fixture
def site(cloud: Cloud, tmp_path: Path, killing: Killing) -> Iterator[Site]:
    """A deployer whose way to Barbican can kill it."""
    with FaultProxy(cloud.testbed.places.barbican_url) as proxy:
        proxy.plan(killing)
        with Site(cloud, tmp_path, barbican_url=proxy.url, worker='sweep = "200ms"\n') as made:
            with made.database.write() as c:
                blueprints.put(c, time.time(), "backend", TEXT, "test")
                vpses.wish(c, time.time(), VPS, "backend", labels={}, actor="test")
            yield made


def until(done: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_killed_after_each_change(site: Site, killing: Killing, cloud: Cloud) -> None:
    """In a rotation: the next worker finishes it, as if nothing had been."""
    barbican = Barbican(cloud.deployer_session, cloud.testbed.places.barbican_url)

    def listed() -> list[tuple[str, str]]:
        with site.database.read() as c:
            row = vpses.get(c, VPS)
        if row is None or not row.container:
            return []
        found = barbican.container(VPS, Version(row.container))
        return sorted((entry.name, entry.version) for entry in found.entries)

    def start() -> subprocess.Popen[bytes]:
        """Start a worker, as if the lease of the killed one had run out."""
        with site.database.write() as c:
            c.execute(update(vps_table).values(lease_until=0.0))
            vpses.wake(c, VPS, vpses.ORDERED)
        return site.start("deployer.worker")

    def has_ended(order: str) -> bool:
        with site.database.read() as c:
            row = rotations.get(c, order)
        return row is not None and row.state == "listed"

    def killed_or_ended(process: subprocess.Popen[bytes], order: str) -> bool:
        return process.poll() is not None or has_ended(order)

    killing.process = start()
    until(lambda: len(listed()) == len(NAMES), "never provisioned")
    for calls in range(1, 40):
        before = listed()
        killing.left = calls
        with site.database.write() as c:
            order = rotations.want(
                c, time.time(), VPS, "session", list(NAMES), reason="compromised", asked_by="test"
            )
            vpses.wake(c, VPS, vpses.ORDERED)
        process = killing.process
        until(functools.partial(killed_or_ended, process, order), "neither killed nor listed")
        was_killed = process.poll() is not None
        if was_killed:
            assert process.returncode == -signal.SIGKILL, (site.folder / "deployer.worker.log").read_text()
            killing.process = start()
            until(functools.partial(has_ended, order), "never finished")
        after = listed()
        assert [name for name, _ in after] == sorted(NAMES)
        assert not {version for _, version in after} & {version for _, version in before}
        for name, version in after:
            of_name = barbican.made(VPS, SecretName(name))
            ready = {one.version for one in of_name if barbican.marks(one.version) is not None}
            assert ready == {version}, "made twice, or a former one is left"
        with site.database.write() as c:
            rotations.progress(c, order, "arrived", time.time())
        if not was_killed:
            break
    assert calls > 10
    assert not was_killed, "a rotation needs ever more calls"
