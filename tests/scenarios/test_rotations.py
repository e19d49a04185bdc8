"""Rotations at bad moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployer.cloud.secrets import generate_value
from tests.scenarios.scenario import MINUTE, Scenario
from tests.scenarios.test_outages import seven

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

PAIR = ("DATABASE_URL", "SMTP_PASSWORD")


def test_rotation_in_the_middle_of_an_outage(cloud: Cloud) -> None:
    """Rotation in the middle of an outage: a former pair is served until the new one is whole."""
    values = seven()
    with Scenario(cloud, "rotation-in-outage", values, factor=4) as day:
        day.start()
        fresh = {name: generate_value(name) for name in PAIR}
        steps = cloud.deployment.rotation_steps(day.vps, fresh)
        for step in steps:
            if step.startswith("added the new entry"):
                break  # of the first name only
        assert day.refresh().status == 200
        assert day.holds(values), "half a rotation is not served"
        with day.away("barbican"):
            day.failure()
            for _ in steps:
                pass
            assert day.holds(values)
        values |= fresh
        day.until(lambda: day.holds(values))
        day.reader.stop()
        assert day.reader.gaps == []
        bundles = day.reader.of("bundle")
        assert len({read.digest for read in bundles}) == 2, "the former seven, then the new seven"


def test_two_rotations_within_one_cycle(cloud: Cloud) -> None:
    """Two rotations within one cycle: the next reading brings the newest; nothing else is seen."""
    values = seven()
    with Scenario(cloud, "two-rotations", values, factor=300) as day:
        day.start()
        with day.away("barbican"):  # so that no reading falls between the two
            for _ in range(2):
                values["JWT_SECRET"] = generate_value("JWT_SECRET")
                cloud.deployment.rotate(day.vps, {"JWT_SECRET": values["JWT_SECRET"]})
        began = day.now()
        day.until(lambda: day.holds(values))
        assert day.now() - began < 18 * MINUTE, "the next poll brings it"
        day.reader.stop()
        assert day.reader.gaps == []
        assert len({read.digest for read in day.reader.of("JWT_SECRET")}) == 2
