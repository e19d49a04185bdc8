"""An order for fifty VPSs, wave by wave: the real API, two workers, a Barbican that fails now and then."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import update

from deployer.database import rotations
from deployer.database.schema import vps
from lab.testbed.deployer import Api, Parts
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy, Handler, Real
from lab.testbed.workers import PAIR, Workers

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.database.rotations import RotationRow

VPSS = 50
WAVES = 3
INTERVAL_S = 4.0
FAILURES = 10


class Failing:
    """Answers every seventh change of a rotation with 503, until it has done so ten times."""

    def __init__(self) -> None:
        self.changes = 0
        self.failed = 0
        self.on = False

    def __call__(self, handler: Handler) -> None:
        """Pass a request on, or fail after it was done: the worker can't know which."""
        real = handler.fetch()
        if self.on and handler.command != "GET":
            self.changes += 1
            if self.changes % 7 == 0 and self.failed < FAILURES:
                self.failed += 1
                handler.give(Real(503, (("Content-Type", "text/html"),), b"<html>"))
                return
        handler.give(real)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.nightly
def test_fifty_in_waves_with_failures(tmp_path: Path) -> None:
    """Each wave waits for its time, each VPS has its rotation once, and the order ends when all have it."""
    failing = Failing()
    api = Api(parts=True)
    assert isinstance(api.parts, Parts)
    with FakeBarbican() as fake, FaultProxy(fake.url) as proxy, api:
        proxy.plan(failing)
        with Workers(fake, tmp_path, api.url, barbican=proxy.url) as workers:
            ids = [f"vps-{number:03}" for number in range(VPSS)]
            workers.wish(ids, PAIR)
            with workers.database.write() as c:
                for number, vps_id in enumerate(ids):
                    c.execute(update(vps).where(vps.c.id == vps_id).values(wave=number % WAVES))
            workers.start(0)
            workers.start(1)
            workers.until(workers.all_provisioned, "never provisioned")
            before = {one.id: set(one.entries) for one in fake.containers.values()}
            failing.on = True
            order = {"reason": "new policy", "all": True, "waveInterval": INTERVAL_S}
            operation = api.ask("POST", "/v1/rotate", order).json

            def wanted() -> tuple[RotationRow, ...]:
                with workers.database.read() as c:
                    return rotations.page(c, limit=1000)

            workers.until(lambda: workers.ended() == VPSS, "not all were listed")
            assert failing.failed == FAILURES
            assert collections.Counter(one.vps for one in wanted()) == dict.fromkeys(ids, 1)
            for one in wanted():
                wave = ids.index(one.vps) % WAVES
                assert one.wanted_at >= operation["createdAt"] + wave * INTERVAL_S
            assert max(one.attempts for one in wanted()) > 1
            after = {one.id: set(one.entries) for one in fake.containers.values()}
            assert before.keys() == after.keys()
            for container, entries in after.items():
                assert len(entries) == 2
                assert not entries & before[container]
            assert sum(count - 1 for count in fake.made.values()) == 0
            state = api.ask("GET", f"/v1/operations/{operation['id']}").json
            assert (state["state"], state["total"]) == ("running", VPSS)
            with workers.database.write() as c:
                for one in wanted():
                    rotations.progress(c, one.id, "arrived", time.time())

            def is_done() -> bool:
                answer = api.ask("GET", f"/v1/operations/{operation['id']}").json
                return bool(answer["state"] == "done" and answer["done"] == VPSS)

            workers.until(is_done, "the order never ends")
            assert (fake.asked_for_payloads, fake.strange) == ([], [])
