"""Keystone and Barbican away, for a while, at boot, again and again."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.testbed.fakes import faults
from tests.scenarios.scenario import HOUR, MINUTE, Scenario

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud


def seven() -> dict[str, bytes]:
    """Return new values for the seven names."""
    return {name: generate_value(name) for name in DEMO_NAMES}


def ages_are_true(day: Scenario, factor: float) -> bool:
    """Return whether every age grew as the time did, or began anew with a cycle that was good."""
    reads = [read for read in day.reader.reads if read.age is not None and read.what != "bundle"]
    wrong = 0
    for former, later in itertools.pairwise(reads):
        assert former.age is not None
        assert later.age is not None
        # what a request takes, the clock may hurry on
        slack = 2 + factor * (former.took + later.took)
        passed = later.at - former.at
        wrong += later.age > former.age + passed + slack
        # a cycle that was good may have begun at any time between the two
        wrong += later.age < former.age + passed - slack and later.age > passed + slack
    return wrong == 0 and len(reads) > 10


def test_barbican_away_for_15_minutes(cloud: Cloud) -> None:
    """Barbican away for 15 minutes: served on, with true ages; a rotation meanwhile arrives by itself."""
    values = seven()
    with Scenario(cloud, "15-minutes", values, factor=300) as day:
        day.start()
        began = day.now()
        with day.away("barbican"):
            assert day.failure()["step"] == "connection"
            day.until_clock(began + 5 * MINUTE)
            values["JWT_SECRET"] = generate_value("JWT_SECRET")
            cloud.deployment.rotate(day.vps, {"JWT_SECRET": values["JWT_SECRET"]})
            day.until_clock(began + 15 * MINUTE)
            status = day.status()
            assert status["cycles"]["inARow"] > 5
            assert status["nextAttemptIn"] < 10 * MINUTE + 2
        day.until(lambda: day.holds(values))
        day.reader.stop()
        assert day.reader.gaps == []
        assert len({read.version for read in day.reader.of("JWT_SECRET")}) == 2
        assert max(read.age or 0 for read in day.reader.reads) > 10 * MINUTE
        assert ages_are_true(day, 300)


def test_away_at_boot(cloud: Cloud) -> None:
    """Barbican away at boot: 503 with the reason and Retry-After; served by itself once it is back."""
    values = seven()
    with Scenario(cloud, "boot", values, factor=60) as day, day.away("barbican"):
        day.start(ready=False)
        day.read()
        day.until(lambda: day.status()["cycles"]["failed"] > 2)
        refused = day.machine.get("/v1/secrets/JWT_SECRET")
        assert (refused.status, refused.problem) == (503, "not-ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert "connection failed" in refused.json["detail"]
        assert day.status()["nextAttemptIn"] is not None
    with Scenario(cloud, "after-boot", values, factor=60) as day:
        with day.away("barbican", "keystone"):
            day.start(ready=False)
            day.until(lambda: day.status()["cycles"]["failed"] > 1)
        back = day.now()
        day.until(lambda: day.holds(values))
        assert day.now() - back < 10 * MINUTE + 60, "the longest backoff is ten minutes"


def test_flapping(cloud: Cloud) -> None:
    """Barbican up and down for an hour: served throughout, not hammered, a rotation arrives."""
    values = seven()
    with Scenario(cloud, "flapping", values, factor=720) as day:
        day.start()
        began, calls = day.now(), len(day.barbican.seen)
        for minute in range(0, 60, 2):
            begin = began + minute * MINUTE
            fault = (faults.hanging_up, faults.page(503))[minute % 4 // 2]
            day.barbican.plan(fault, begin=begin, end=begin + MINUTE)
        day.until_clock(began + 30 * MINUTE)
        values["DATABASE_URL"] = generate_value("DATABASE_URL")
        cloud.deployment.rotate(day.vps, {"DATABASE_URL": values["DATABASE_URL"]})
        day.until_clock(began + HOUR)
        day.until(lambda: day.holds(values))
        day.reader.stop()
        assert day.reader.gaps == []
        assert len(day.barbican.seen) - calls < 100


def test_keystone_away_with_a_live_token(cloud: Cloud) -> None:
    """Keystone away, the token alive: nobody notices; readings go on and rotations arrive."""
    values = seven()
    with Scenario(cloud, "live-token", values) as day:
        day.start()
        with day.away("keystone"):
            values["SMTP_PASSWORD"] = generate_value("SMTP_PASSWORD")
            cloud.deployment.rotate(day.vps, {"SMTP_PASSWORD": values["SMTP_PASSWORD"]})
            assert day.refresh().status == 200
            assert day.holds(values)
            assert day.status()["cycles"]["failed"] == 0
        day.reader.stop()
        assert day.reader.gaps == []


def test_keystone_away_with_an_expired_token(brief_cloud: Cloud) -> None:
    """Keystone away, the token expired: served on, reported; it logs in by itself when it can."""
    values = seven()
    with Scenario(brief_cloud, "expired-token", values) as day:
        day.start()
        with day.away("keystone"):
            day.until(lambda: day.refresh().status == 502)
            failure = day.status()["failure"]
            assert failure["step"] == "connection"
            assert "/auth/tokens" in failure["tried"]
            assert day.holds(values)
        day.until(lambda: day.status()["failure"] is None)
        day.reader.stop()
        assert day.reader.gaps == []
