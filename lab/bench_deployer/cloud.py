"""A worker and a Barbican, the real one or the fake: provisioning beside a bare client, rotation, emergency.

Worker and bare client take turns in rounds; a share is taken within a round. Both use the same Barbican,
which grows meanwhile. Accounts are a fake's here: Keystone is not what is measured.
"""

from __future__ import annotations

import contextlib
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select, update

from deployer.api import ordering
from deployer.database import rotations, schema
from lab.bench.processes import cpu
from lab.bench.results import percentile
from lab.bench_deployer import acts
from lab.bench_deployer.acts import NAMES, TEXT
from lab.bench_deployer.bare import Bare, Noting
from lab.bench_deployer.figures import Figure
from lab.testbed.cloud import Cloud
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.testbed import Options
from lab.testbed.workers import Deployment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deployer.database.rotations import RotationRow

CLIENTS: Final = 8
SHARE: Final = 0.8
EMERGENCY_S: Final = 300.0
MANY: Final = 100
"""VPSs for which that was promised."""
HURRY: Final = f'concurrency = {CLIENTS}\nsweep = "1s"\ncalls_per_second = 10000\nburst = 10000\n'
SHIPPED: Final = 'concurrency = 2\nsweep = "60s"\ncalls_per_second = 10\nburst = 50\n'
"""What a worker has by default."""
WAIT_S: Final = 1800.0


@dataclass(frozen=True, slots=True)
class Effort:
    """Rounds of so many VPSs for each; rotations that come due within ``spread`` seconds, at this pace."""

    rounds: int
    vps: int
    rotations: int
    spread: float
    pace: str = SHIPPED


FULL: Final = Effort(rounds=5, vps=20, rotations=100, spread=120.0)
REAL: Final = Effort(rounds=4, vps=10, rotations=40, spread=120.0)
"""The testbed's Barbican makes 10 to 40 changes a second: less has to do."""
QUICK: Final = Effort(rounds=1, vps=2, rotations=2, spread=1.0, pace=HURRY)


@dataclass(frozen=True, slots=True)
class Target:
    """A Barbican: where it is, how one logs in, and the process that it is (0: this one)."""

    name: str
    auth_url: str
    url: str
    credential: tuple[str, str]
    token: str
    pid: int


def real(effort: Effort = REAL) -> list[Figure]:
    """Measure with a real Keystone and Barbican."""
    with Cloud(Options(threads=1)) as cloud:  # on SQLite several writers at once are answered 500
        login = (cloud.deployer.id, cloud.deployer.secret)
        places = cloud.testbed.places
        pid = cloud.testbed.pids["barbican"] or 0
        token = cloud.deployment_token()
        target = Target("real Barbican", places.auth_url, places.barbican_url, login, token, pid)
        return measure(target, effort)


def fake(effort: Effort = FULL) -> list[Figure]:
    """Measure with the fake Barbican: what the deployer itself can do."""
    with FakeBarbican() as barbican:
        target = Target("fake Barbican", barbican.auth_url, barbican.url, ("id", "none"), "none", 0)
        return measure(target, effort)


def measure(target: Target, effort: Effort) -> list[Figure]:
    """Measure everything with one Barbican."""
    with tempfile.TemporaryDirectory(prefix="bench-cloud-") as place:
        url = f"sqlite:///{place}/deployer.db"
        at = target.auth_url, target.url
        with Deployment(*at, Path(place), url, worker=HURRY, credential=target.credential) as deployment:
            run = _Run(target, deployment)
            return [*run.provisioning(effort), *run.emergency(effort), *run.rotation(effort)]


class _Run:
    """What is measured one after the other, with what was made before."""

    def __init__(self, target: Target, deployment: Deployment) -> None:
        self._target: Final = target
        self._deployment: Final = deployment
        self._vps: list[str] = []
        self._starts = 0
        self._borne = 0.0
        """What the bare client reaches (calls a second)."""

    def provisioning(self, effort: Effort) -> list[Figure]:
        """One VPS through a proxy that notes the calls; then rounds of many, beside the bare client."""
        bare, alone = self._noted(), self._alone()
        shares, rates, borne, busy, theirs = [], [], [], [], []
        for number in range(effort.rounds):
            ours = [f"vps-{number:02}-{one:03}" for one in range(effort.vps)]
            copies = [f"bare-{number:02}-{one:03}" for one in range(effort.vps)]
            before = self._cpu()
            if number % 2:
                by_bare = bare.provision(copies, CLIENTS)
                before = self._cpu()
                by_worker = self._provision(ours)
                after = self._cpu()
            else:
                by_worker = self._provision(ours)
                after = self._cpu()
                by_bare = bare.provision(copies, CLIENTS)
            shares.append(by_bare / by_worker)
            rates.append(3600 * effort.vps / by_worker)
            borne.append(effort.vps * len(bare.calls) / by_bare)
            busy.append((after[0] - before[0]) / effort.vps)
            theirs.append((after[1] - before[1]) / effort.vps)
        of = f"{self._target.name}: {CLIENTS} at a time"
        least = SHARE if self._target.pid else None  # the fake costs next to nothing
        self._borne = statistics.median(borne)
        own = [Figure(f"{of}: CPU of Barbican, a VPS", statistics.median(theirs), "s")]
        return [
            Figure(f"{self._target.name}: calls to provision a VPS of {NAMES} secrets", len(bare.calls), ""),
            Figure(f"{self._target.name}: one VPS alone", alone, "s"),
            Figure(f"{of}: VPSs an hour", statistics.median(rates), ""),
            Figure(f"{of}: a bare client's calls", statistics.median(borne), "a second"),
            Figure(f"{of}: share of the bare client's rate", statistics.median(shares), "", least=least),
            Figure(f"{of}: the same, worst and best round", min(shares), f"to {max(shares):.2f}"),
            Figure(f"{of}: CPU of the worker, a VPS", statistics.median(busy), "s"),
            *(own if self._target.pid else []),
        ]

    def emergency(self, effort: Effort) -> list[Figure]:
        """All VPSs are compromised at once."""
        vps = self._vps[-effort.rounds * effort.vps :]
        database = self._deployment.database
        before, began = self._cpu(), time.perf_counter()
        orders: list[str] = []
        for vps_id in vps:
            with database.write() as c:
                order = ordering.Order("bench", "emergency", vps_id, {"reason": "measured"})
                orders += ordering.emergency(c, time.time(), order, pool=False).detail["rotations"]
        self._deployment.wake()
        self._until(lambda: self._in_state("listed") >= len(orders), "the emergency does not end")
        took, after = time.perf_counter() - began, self._cpu()
        _expect(found=len(orders) == NAMES * len(vps))
        of = f"{self._target.name}: emergency of {len(vps)} VPSs"
        most = None if self._target.pid else EMERGENCY_S
        all_calls = MANY * acts.kept()["emergency"].calls
        bears = (
            f"{self._target.name}: emergency of {MANY} VPSs, its {all_calls:,.0f} calls by the bare client"
        )
        return [
            Figure(f"{of}, {len(orders)} secrets: all is replaced", took, "s", most),
            Figure(f"{of}: CPU of the worker", after[0] - before[0], "s"),
            Figure(bears, all_calls / self._borne, "s"),
        ]

    def rotation(self, effort: Effort) -> list[Figure]:
        """Rotations that come due at moments of their own, with a worker as it is shipped."""
        self._end_workers()
        self._deployment.worker = effort.pace
        draw = random.Random(1)  # noqa: S311  # not for secrets
        now = time.time()
        self._settle()
        due = {}
        with self._deployment.database.write() as c:
            # one of a VPS: a look writes the dates of all its secrets as they are in Barbican
            for vps_id in draw.sample(self._vps, effort.rotations):
                name = f"NAME_{draw.randrange(NAMES)}"
                at = now + 5 + draw.uniform(0, effort.spread)
                due[vps_id, name] = at
                row = schema.secret.c.vps == vps_id, schema.secret.c.name == name
                c.execute(update(schema.secret).where(*row).values(work_at=at, due=at + 3600))
        self._start(1)
        self._until(lambda: self._served() >= effort.rotations, "the rotations do not end")
        found = [
            (order.begun_at - due[order.vps, order.grp], order.listed_at - order.begun_at)
            for order in self._scheduled()
            if order.begun_at and order.listed_at
        ]
        _expect(found=len(found) == effort.rotations)
        self._end_workers()
        waits, works = zip(*found, strict=True)
        whole = [wait + work for wait, work in found]
        of = f"{self._target.name}: rotation due"
        return [
            Figure(f"{of} to listed in the container, p50", percentile(whole, 0.5), "s"),
            Figure(f"{of} to listed in the container, p99", percentile(whole, 0.99), "s"),
            Figure(f"{of} to begun (a sweep a minute), p50", percentile(waits, 0.5), "s"),
            Figure(f"{of}, begun to listed, p50", percentile(works, 0.5), "s"),
            Figure(f"{of}, begun to listed, p99", percentile(works, 0.99), "s"),
        ]

    def _noted(self) -> Bare:
        """Have a worker provision one VPS through a proxy, and return a client that makes the same calls."""
        noting, vps_id = Noting(), "vps-noted-001"
        with FaultProxy(self._target.url) as proxy:
            proxy.plan(noting)
            self._deployment.barbican = proxy.url
            self._start(0)
            self._provision([vps_id])
            self._end_workers()
        self._deployment.barbican = self._target.url
        return Bare(self._target.url, self._target.token, noting.calls, vps_id)

    def _alone(self) -> float:
        self._start(0)
        self._provision(["vps-first-001"])  # the login, and the connections
        return self._provision(["vps-alone-001"])

    def _provision(self, vps_ids: Sequence[str]) -> float:
        """Wish VPSs, wait until all are there, and return the seconds."""
        began = time.perf_counter()
        self._deployment.wish(vps_ids, TEXT)
        self._deployment.wake()
        self._until(self._deployment.all_provisioned, "the VPSs are not provisioned")
        self._vps += vps_ids
        return time.perf_counter() - began

    def _settle(self) -> None:
        """End what is open, and let nothing else be due meanwhile."""
        with self._deployment.database.write() as c:
            for order in rotations.page(c, limit=10_000):
                if order.ended_at is None:
                    rotations.progress(c, order.id, "arrived", time.time())
            c.execute(update(schema.vps).values(next_look=time.time() + 3000.0))

    def _served(self) -> int:
        """Let the VPSs serve at once what is listed, and return how many rotations have come so far."""
        listed = [order.id for order in self._scheduled() if order.state == "listed"]
        with self._deployment.database.write() as c:
            for order_id in listed:
                rotations.progress(c, order_id, "arrived", time.time())
        return sum(order.state == "arrived" for order in self._scheduled())

    def _scheduled(self) -> list[RotationRow]:
        with self._deployment.database.read() as c:
            return [one for one in rotations.page(c, limit=10_000) if one.reason == "schedule"]

    def _in_state(self, state: str) -> int:
        with self._deployment.database.read() as c:
            found = select(schema.rotation.c.id).where(schema.rotation.c.state == state)
            return len(c.execute(found).all())

    def _cpu(self) -> tuple[float, float]:
        """Return the CPU time of the worker, and of Barbican (s)."""
        worker = sum(cpu(self._deployment.processes[-1].pid))
        return worker, sum(cpu(self._target.pid)) if self._target.pid else 0.0

    def _start(self, number: int) -> None:
        """Start a worker, and wait until it listens."""
        self._deployment.start(number)
        self._until(lambda: self._deployment.log().count("the worker is ready") > self._starts, "no worker")
        self._starts += 1

    def _end_workers(self) -> None:
        for process in self._deployment.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait()
        self._deployment.processes.clear()

    def _until(self, holds: Any, what: str) -> None:
        self._deployment.until(holds, what, WAIT_S)


def _expect(*, found: bool) -> None:
    if not found:
        raise RuntimeError("the benchmark measured something else than it says")
