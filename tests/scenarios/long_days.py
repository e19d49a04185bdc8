"""What `make scenarios` alone runs, hence its name: days of outage, kills, rotations."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from deployer.cloud.secrets import generate_value
from tests.integration.test_pair_rotation import rotate_and_look
from tests.scenarios import kill_loop
from tests.scenarios.scenario import DAY, MINUTE, Scenario
from tests.scenarios.test_outages import seven

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

FACTOR = 20_000.0


def _play(cloud: Cloud, name: str, days: float) -> None:
    """Have both services away for days; the agent is killed in the middle of it."""
    values = seven()
    with Scenario(cloud, name, values, factor=FACTOR) as day:
        day.start()
        assert day.status()["memory"]["kept"]
        with day.away("barbican", "keystone"):
            began = day.now()
            day.until_clock(began + days / 2 * DAY)
            day.machine.send("KILL")
            values["JWT_SECRET"] = generate_value("JWT_SECRET")
            cloud.deployment.rotate(day.vps, {"JWT_SECRET": values["JWT_SECRET"]})
            day.until_clock(began + days * DAY)
            status = day.status()
            assert status["state"] == "stale"
            assert days * DAY - 20 * MINUTE < status["confirmedAge"] < days * DAY + 20 * MINUTE
            assert status["nextAttemptIn"] < 10 * MINUTE + 2
            calls = len(day.barbican.seen)
        back = day.now()
        day.until(lambda: day.holds(values))
        assert day.now() - back < 15 * MINUTE
        day.reader.stop()
        assert len(day.reader.gaps) <= 1, "the request that the killed agent had in its hands"
        assert {gap.gap for gap in day.reader.gaps} <= {"cut off"}
        stale = [read for read in day.reader.reads if read.age is not None and read.what != "bundle"]
        assert all(read.stale for read in stale if (read.age or 0.0) > 31 * MINUTE)
        assert max(read.age or 0.0 for read in stale) > days * DAY - HALF_AN_HOUR
        # backoff's mean is half its cap of ten minutes
        assert calls < days * DAY / (5 * MINUTE) * 1.3


HALF_AN_HOUR = 30 * MINUTE


@pytest.mark.timeout(600)
def test_barbican_away_for_24_hours(cloud: Cloud) -> None:
    """Barbican and Keystone away for 24 hours: served on, marked stale; also by an agent killed meanwhile."""
    _play(cloud, "24-hours", 1)


@pytest.mark.timeout(1200)
def test_barbican_away_for_8_days(cloud: Cloud) -> None:
    """Barbican and Keystone away for 8 days: the same; an attempt every 10 minutes at most, none wasted."""
    _play(cloud, "8-days", 8)


@pytest.mark.timeout(1200)
def test_killed_500_times(cloud: Cloud) -> None:
    """Agent killed 500 times while a pair rotates: no value is wrong, torn, mixed, set back or lost."""
    counted = kill_loop.play(cloud, kills=500, seed=500)
    sys.stdout.write(f"{counted}\n")
    assert counted["serve"] > 250
    assert counted["serve in a cycle"] > 50
    assert counted["generations"] > 20


@pytest.mark.timeout(1200)
def test_a_pair_rotates_100_times(cloud: Cloud) -> None:
    """A pair rotated 100 times while cycles follow each other: no reader ever sees half of it."""
    rotate_and_look(cloud, "vps-pair-100", 100)
