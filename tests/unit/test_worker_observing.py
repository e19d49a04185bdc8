"""deployer/worker/observing.py: when a look is one that looks at everything."""

from __future__ import annotations

from collections import Counter

from deployer.core.schedule import DAY_S, HOUR_S
from deployer.database.vpses import VpsRow
from deployer.worker.observing import is_daily

MIDNIGHT = 20_000 * DAY_S


def row(vps_id: str, looked_at: float | None) -> VpsRow:
    """Return a VPS that serves, and was looked at last at this moment."""
    return VpsRow(
        vps_id, "backend", {}, 0, "present", "user", "container", "user", "serving", 0.0, 0.0, 0, "", 0.0, 0,
        "", "", None, looked_at,
    )  # fmt: skip


def test_one_look_of_a_day_looks_at_everything() -> None:
    """Whenever the day of this VPS begins; and the first look of all."""
    for number in range(50):
        looks = [MIDNIGHT + hour * HOUR_S for hour in range(24 * 7)]
        daily = [is_daily(row(f"vps-{number}", at - HOUR_S), at) for at in looks]
        assert sum(daily) == 7
        assert {daily.index(True) + 24 * day for day in range(7)} == {n for n, one in enumerate(daily) if one}
        assert is_daily(row(f"vps-{number}", None), MIDNIGHT)


def test_a_fleet_is_not_looked_at_in_one_hour() -> None:
    """Each VPS has its own hour for it: none gets more than a small part of the fleet."""
    hours = Counter(
        hour
        for number in range(2400)
        for hour in range(24)
        if is_daily(row(f"vps-{number}", MIDNIGHT + hour * HOUR_S), MIDNIGHT + (hour + 1) * HOUR_S)
    )
    assert sum(hours.values()) == 2400
    assert max(hours.values()) < 150


def test_after_days_without_a_look_everything_is_looked_at() -> None:
    """However many days."""
    assert is_daily(row("vps-1", MIDNIGHT), MIDNIGHT + 1.5 * DAY_S)
