"""A credential that is going to expire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.cli import show
from tests.scenarios.scenario import DAY, Scenario
from tests.scenarios.test_outages import seven

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud


def test_credential_about_to_expire(cloud: Cloud) -> None:
    """Application credential about to expire: a warning 14, 7 and 1 days before; also in status."""
    values = seven()
    with Scenario(cloud, "about-to-expire", values) as day:
        cloud.new_credential(day.vps.vps_id, cloud.runtime[day.vps.vps_id].user, expires_in=20 * DAY)
        expires = day.machine.clocks.wall() + 20 * DAY
        day.start()
        assert day.status()["credentialExpires"] is not None
        told = []
        for left in range(19, -3, -1):
            day.machine.clocks.set_wall_ahead(DAY)
            before = day.machine.log.count("the application credential")
            assert day.refresh().status == 200
            told += [left] * (day.machine.log.count("the application credential") - before)
        # a little of the first day has passed already, so the day with 14 left has a little less
        assert told == [14, 7, 1, 0]
        assert any("has expired" in warning for warning in day.status()["warnings"])
        shown = "\n".join(show.status(day.status()))
        assert day.status()["credentialExpires"] in shown
        assert "make a new one" in shown
        metrics = day.machine.ask_control("/metrics").body.decode()
        line = next(line for line in metrics.splitlines() if line.startswith("vps_secrets_credential_exp"))
        assert abs(float(line.split()[1]) - expires) < 60
        asked = [line for line in day.keystone.seen if "application_credentials" in line]
        assert len(asked) == 1, "once a day at most, whatever the number of readings"
