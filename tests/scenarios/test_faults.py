"""Every fault that a network or a front end can make, on the way to the real services."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from deployer.cloud.secrets import generate_value
from lab.testbed.fakes import faults, proxy
from lab.testbed.fakes.tls import tls_context
from tests.scenarios.scenario import DAY, HOUR, Scenario
from tests.scenarios.test_outages import seven

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lab.testbed.cloud import Cloud

OWN, WAY = "the service's", "the way's"


class Case(NamedTuple):
    """A fault, and how the cycle must fail: whose step, its status, and how long it waits at least (s)."""

    fault: Callable[[proxy.Handler], None]
    step: str = OWN
    status: int | None = None
    waits: float = 0.0


CASES = {
    "stall": Case(faults.hanging, WAY),
    "reset": Case(proxy.reset, WAY),
    "hang up": Case(faults.hanging_up, WAY),
    "cut off": Case(proxy.half, status=0),
    "said longer": Case(proxy.mislength(10), status=0),
    "said shorter": Case(proxy.mislength(-10), status=0),
    "corrupted": Case(proxy.corrupted, status=0),
    "endless": Case(faults.endless, status=0),
    "compressed": Case(faults.compressed, status=200),
    "401 of a front end": Case(faults.page(401), status=401),
    "403 of a front end": Case(faults.page(403), status=403),
    "404 of a front end": Case(faults.page(404), status=404),
    "409": Case(faults.refused(409), status=409),
    "429": Case(faults.refused(429), status=429),
    "429, later": Case(faults.refused(429, Retry_After="1800"), status=429, waits=1800),
    "500": Case(faults.refused(500), status=500),
    "502 page": Case(faults.page(502), status=502),
    "503, later": Case(faults.page(503, Retry_After="1200"), status=503, waits=1200),
    "504": Case(faults.refused(504), status=504),
    "redirect": Case(faults.page(302, Location="http://127.0.0.1:1/"), status=302),
}


def _plays(day: Scenario, service: str, case: Case) -> list[str]:
    """Return what is wrong with how one fault is taken."""
    failure = day.failure()
    step = "connection" if case.step == WAY else service
    wrong = []
    if (failure["step"], failure["fault"]) != (step, "transient"):
        wrong.append(f"step {failure['step']}, {failure['fault']}")
    # status 0: an answer that can't be used may have one or not
    if case.status != 0 and failure["status"] != case.status:
        wrong.append(f"status {failure['status']}")
    if day.status()["nextAttemptIn"] < case.waits - HOUR / 60:
        wrong.append("Retry-After is not obeyed")
    return wrong


def test_any_fault_on_the_way(cloud: Cloud) -> None:
    """Any fault on the way: reported with its step, nothing is lost or dropped, Retry-After is obeyed."""
    values, wrong = seven(), {}
    with Scenario(cloud, "faults", values) as day:
        day.start()
        for name, case in CASES.items():
            with day.barbican.faulty(case.fault):
                wrong[f"Barbican: {name}"] = _plays(day, "Barbican", case)
            with day.barbican.faulty(faults.unauthorized), day.keystone.faulty(case.fault):
                wrong[f"Keystone: {name}"] = _plays(day, "Keystone", case)
            assert day.refresh().status == 200, "it is good again as soon as the fault is gone"
        assert {name: found for name, found in wrong.items() if found} == {}
        assert day.holds(values)
        day.reader.stop()
        assert day.reader.gaps == []
        assert len({read.generation for read in day.reader.reads}) == 1


def test_latency(cloud: Cloud) -> None:
    """Latency on every call: a rotation takes longer and arrives; the application waits for nothing."""
    values = seven()
    with Scenario(cloud, "latency", values) as day:
        day.start()
        values["JWT_SECRET"] = b"a new one that is long enough"
        cloud.deployment.rotate(day.vps, {"JWT_SECRET": values["JWT_SECRET"]})
        reads = len(day.reader.reads)
        with day.barbican.faulty(proxy.late(0.3)):  # five calls, one after the other
            assert day.refresh().status == 200
        assert len(day.reader.reads) - reads > 20, "whoever reads does not wait for the cycle"
        assert day.holds(values)
        day.reader.stop()
        assert day.reader.gaps == []


def test_wrong_tls(cloud: Cloud, tmp_path: Path) -> None:
    """Wrong TLS, or none: the step is reported, no credential is sent, served on."""
    for name in ("good", "unknown"):
        (tmp_path / name).mkdir()
    good, unknown = tls_context(tmp_path / "good"), tls_context(tmp_path / "unknown")
    values = seven()
    with Scenario(cloud, "tls", values, tls=good, ca_file=tmp_path / "good" / "ca.pem") as day:
        day.start()
        for wrong in (unknown, None):
            day.keystone.tls = day.barbican.tls = wrong
            seen = len(day.keystone.seen) + len(day.barbican.seen)
            assert day.failure()["step"] == "TLS"
            assert len(day.keystone.seen) + len(day.barbican.seen) == seen
            assert day.holds(values)
        day.keystone.tls = day.barbican.tls = good
        assert day.refresh().status == 200


def test_dns_away(cloud: Cloud) -> None:
    """DNS away: the step and the name are reported; served on; the next attempt finds it."""
    values = seven()
    with Scenario(cloud, "dns", values) as day:
        day.start()
        good = day.machine.configuration.read_text()
        day.machine.write(good.replace("localhost", "cloud.invalid").replace("http://", "https://"))
        failure = day.failure()
        assert failure["step"] == "DNS"
        assert "cloud.invalid" in failure["tried"]
        assert day.holds(values)
        day.machine.write(good)
        day.until(lambda: day.status()["failure"] is None)


def test_clocks_that_differ(cloud: Cloud) -> None:
    """A clock set wrong, here or there: ages stay true, nothing is dropped; the journal says by how much."""
    values = seven()
    with Scenario(cloud, "clocks", values) as day:
        day.start()
        with day.barbican.faulty(proxy.skewed(2 * HOUR)):
            assert day.refresh().status == 200
            assert "this machine's clock is 120 minutes behind the service's" in day.machine.log
        for ahead in (DAY, -3 * DAY):
            day.machine.clocks.set_wall_ahead(ahead)
            assert day.refresh().status == 200
            assert day.status()["confirmedAge"] < 60
            assert day.holds(values)
        day.reader.stop()
        assert day.reader.gaps == []
        assert max(read.age or 0.0 for read in day.reader.reads) < HOUR


def test_clocks_that_part(cloud: Cloud) -> None:
    """Suspended or restored, the clocks apart: read at once; what that can't confirm is as old as it is."""
    values = seven()
    # in real time, so that within a test no poll comes by itself
    with Scenario(cloud, "suspended", values, factor=1.0, watchdog=True) as day:
        day.start()
        values["JWT_SECRET"] = generate_value("JWT_SECRET")
        cloud.deployment.rotate(day.vps, {"JWT_SECRET": values["JWT_SECRET"]})
        day.machine.clocks.set_wall_ahead(3 * DAY)
        day.until(lambda: day.holds(values))
        assert f"the wall clock went {3 * DAY:.0f} s ahead of the boot clock" in day.machine.log
        assert day.status()["confirmedAge"] < HOUR
        with day.away("barbican"):
            day.machine.clocks.set_wall_ahead(2 * DAY)
            assert day.failure()["step"] == "connection"
            assert day.status()["confirmedAge"] > 2 * DAY
            assert day.holds(values)
            day.machine.clocks.set_wall_ahead(-2 * DAY)
            assert day.failure()["step"] == "connection"
            assert day.status()["confirmedAge"] > 2 * DAY, "a clock that is set back makes nothing younger"
        assert day.refresh().status == 200
        assert day.status()["confirmedAge"] < HOUR
        day.reader.stop()
        assert day.reader.gaps == []
