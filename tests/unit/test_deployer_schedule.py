"""deployer/core/schedule.py: before it is due, in its window, spread, and whatever the clocks do."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.names import Version
from deployer.config.zones import zone
from deployer.core import schedule
from deployer.core.schedule import DAY_S, HOUR_S, Window

AMSTERDAM: Final = ZoneInfo("Europe/Amsterdam")
NIGHT: Final = Window(120, 300, "Europe/Amsterdam", AMSTERDAM)
INTERVALS: Final = st.floats(5.0, 366 * DAY_S)
MOMENTS: Final = st.floats(1.5e9, 4e9)
NAMES: Final = st.text("abc-0123456789", min_size=1, max_size=12)
# half-hour clock changes, a place that left out a day, one that goes back for Ramadan, the far ends
ZONES: Final = (
    *("Europe/Amsterdam", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "America/St_Johns"),
    *("Asia/Kathmandu", "Pacific/Kiritimati", "Etc/GMT+12", "UTC", "Antarctica/Troll", "America/Caracas"),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """Draw a window of a place whose clock does something odd."""
    name = draw(st.sampled_from(ZONES))
    begin = draw(st.integers(0, 1439))
    end = (begin + draw(st.integers(1, 1439))) % 1440
    return Window(begin, end, name, ZoneInfo(name))


def at(text: str) -> float:
    """Return the moment of an ISO 8601 text with its offset."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("rotate", "lead"),
    [
        (10.0, 5.0),
        (HOUR_S, HOUR_S / 2),
        (2 * HOUR_S, HOUR_S),
        (10 * HOUR_S, HOUR_S),
        (30 * DAY_S, 3 * DAY_S),
        (90 * DAY_S, 9 * DAY_S),
    ],
)
def test_the_lead_is_a_tenth_an_hour_at_least_and_never_more_than_half(rotate: float, lead: float) -> None:
    """However short the interval is."""
    assert schedule.lead(rotate) == lead


def test_due_is_barbicans_date_and_the_interval() -> None:
    """Nothing else; what never rotates is never due."""
    assert schedule.due(1000.0, 30.0) == 1030.0
    assert schedule.due(1000.0, None) is None


@given(MOMENTS, INTERVALS, NAMES, NAMES)
def test_without_a_window_half_of_the_lead_is_left_for_what_goes_wrong(
    due: float, rotate: float, vps: str, group: str
) -> None:
    """The moment is in the first half, and the same whenever it is asked for."""
    lead = schedule.lead(rotate)
    moment = schedule.work_at(due, lead, vps, group)
    assert due - lead <= moment <= due - lead / 2
    assert moment == schedule.work_at(due, lead, vps, group)


def test_a_fleet_is_spread_over_that_half() -> None:
    """Each tenth of it gets its share of 5,000 VPSs, and two groups of one VPS are apart."""
    lead = schedule.lead(30 * DAY_S)
    moments = [schedule.work_at(lead, lead, f"vps-{number}", "JWT_SECRET") for number in range(5000)]
    tenths = [sum(int(moment / (lead / 2) * 10) == tenth for moment in moments) for tenth in range(10)]
    assert min(tenths) > 400
    assert max(tenths) < 600
    assert schedule.work_at(0, lead, "vps-1", "A") != schedule.work_at(0, lead, "vps-1", "B")


@given(MOMENTS, st.floats(schedule.WINDOW_NEEDS_S, 366 * DAY_S), NAMES, windows())
@example(at("2026-03-29T12:00:00+02:00"), 7 * DAY_S, "a", NIGHT)  # the clock has just been put forward
@example(at("2026-10-25T12:00:00+01:00"), 7 * DAY_S, "a", NIGHT)  # and back
@example(
    at("2011-12-31T12:00:00+14:00"), 7 * DAY_S, "a", Window(0, 1, "Pacific/Apia", ZoneInfo("Pacific/Apia"))
)
def test_where_the_interval_is_long_enough_work_is_always_in_the_window(
    due: float, rotate: float, vps: str, window: Window
) -> None:
    """By the wall clock of the place, whatever it did that day; in time, and after half of the interval."""
    moment = schedule.work_at(due, schedule.lead(rotate), vps, "g", window)
    assert window.holds(moment)
    assert due - rotate / 2 - 1e-3 <= moment <= due - schedule.lead(rotate) / 2


@given(MOMENTS, INTERVALS, NAMES, windows())
@example(at("2026-07-01T07:00:00+02:00"), 2 * HOUR_S, "a", NIGHT)
def test_whatever_the_window_the_deadline_wins(due: float, rotate: float, vps: str, window: Window) -> None:
    """Work never begins in the second half of the lead, nor in the first half of the interval."""
    lead = schedule.lead(rotate)
    moment = schedule.work_at(due, lead, vps, "g", window)
    assert due - rotate / 2 - 1e-3 <= moment <= due - lead / 2
    assert window.holds(moment) or due - lead <= moment


CHANGES: Final = (
    # clock changes of an hour, of half an hour, of two hours, of a day, and for a month
    *(("Europe/Amsterdam", "2026-03-29"), ("Europe/Amsterdam", "2026-10-25")),
    *(("Australia/Lord_Howe", "2026-04-05"), ("Australia/Lord_Howe", "2026-10-04")),
    *(("Antarctica/Troll", "2026-03-29"), ("Antarctica/Troll", "2026-10-25")),
    *(("Pacific/Apia", "2011-12-30"), ("America/Caracas", "2016-05-01"), ("Africa/Casablanca", "2026-03-22")),
)


@given(st.sampled_from(CHANGES), st.integers(0, 1439), st.integers(1, 1439))
@example(("Europe/Amsterdam", "2026-03-29"), 135, 30)  # it opens and closes in the hour that is left out
@example(("Europe/Amsterdam", "2026-03-29"), 60, 105)  # closes in it
@example(("Europe/Amsterdam", "2026-10-25"), 135, 165)  # opens in the hour that comes twice
@example(("Europe/Amsterdam", "2026-10-25"), 60, 105)  # closes in it
@example(("Europe/Amsterdam", "2026-10-25"), 1380, 120)  # begins on the day before
def test_openings_are_what_the_wall_clock_shows_minute_by_minute(
    change: tuple[str, str], begin: int, length: int
) -> None:
    """On the days around a change of the clock; only of minutes that come twice one may be left out."""
    window = Window(begin, (begin + length) % 1440, change[0], ZoneInfo(change[0]))
    since = at(f"{change[1]}T00:00:00+00:00") - DAY_S
    minutes = [since + 60 * minute + 30 for minute in range(3 * 1440)]
    openings = list(schedule._clipped(schedule._openings(window, since, minutes[-1]), since, minutes[-1]))
    opened = [any(opening <= minute < closing for opening, closing in openings) for minute in minutes]
    shown = [window.holds(minute) for minute in minutes]
    assert not any(is_open and not holds for is_open, holds in zip(opened, shown, strict=True))
    # where a whole day was left out, its window was too
    assert sum(shown) - sum(opened) <= (1440 if change[0] == "Pacific/Apia" else 4 * 60)


def test_the_window_before_the_lead_is_the_last_one_of_them() -> None:
    """No earlier than needed: a rotation every week stays one every week, or nearly."""
    lead = schedule.lead(7 * DAY_S)
    due = at("2026-06-20T22:00:00+02:00")  # the first half of its lead has no night
    for number in range(50):
        moment = schedule.work_at(due, lead, f"vps-{number}", "g", NIGHT)
        assert at("2026-06-20T02:00:00+02:00") <= moment < at("2026-06-20T05:00:00+02:00")


def test_a_fleet_is_spread_over_the_windows_too() -> None:
    """They don't all begin at two o'clock; over three nights, as the lead has them."""
    lead = schedule.lead(60 * DAY_S)
    due = at("2026-06-20T12:00:00+02:00")
    moments = [schedule.work_at(due, lead, f"vps-{number}", "g", NIGHT) for number in range(3000)]
    days = {datetime.fromtimestamp(moment, UTC).astimezone(AMSTERDAM).day for moment in moments}
    hours = [datetime.fromtimestamp(moment, UTC).astimezone(AMSTERDAM).hour for moment in moments]
    assert days == {15, 16, 17}
    assert {hours.count(hour) > 900 for hour in (2, 3, 4)} == {True}


def test_rotations_in_a_window_do_not_drift_out_of_it() -> None:
    """Each is due from when the one before it was made: after 200 of them there is still time left."""
    created = at("2026-01-01T03:00:00+01:00")
    for _ in range(200):
        due = created + 7 * DAY_S
        moment = schedule.work_at(due, schedule.lead(7 * DAY_S), "vps-1", "g", NIGHT)
        assert NIGHT.holds(moment)
        assert due - moment >= schedule.lead(7 * DAY_S) / 2
        created = moment + 2.0


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("02:00-05:00 Europe/Amsterdam", "2026-07-01T02:00:00+02:00", "2026-07-01T05:00:00+02:00"),
        ("22:30-01:15 UTC", "2026-07-01T01:14:59+00:00", "2026-07-01T22:29:59+00:00"),
        # the second 02:30 of the night in which the clock is put back is inside as well
        ("02:30-02:45 Europe/Amsterdam", "2026-10-25T02:30:00+01:00", "2026-10-25T02:00:00+01:00"),
    ],
)
def test_a_window_is_by_the_wall_clock_of_its_place(text: str, inside: str, outside: str) -> None:
    """Also over midnight; and it is written as it was read."""
    window = schedule.parse_window(text, zone)
    assert window is not None
    assert str(window) == text
    assert window.holds(at(inside))
    assert not window.holds(at(outside))


@pytest.mark.parametrize(
    "text",
    [
        *("", "02:00-05:00", "02:00-05:00 ", "02:00-02:00 UTC", "2:00-05:00 UTC", "02:00-24:00 UTC"),
        *("02:00-05:60 UTC", "02:00-05:00 UTC UTC", "٠٢:00-05:00 UTC", "02:00-05:00 Europe/Atlantis"),
        *(
            "02:00-05:00 ../../etc/passwd",
            "02:00-05:00 /etc/localtime",
            "02:00-05:00 Europe",
        ),
    ],
)
def test_what_is_no_window(text: str) -> None:
    """An empty one, no time of a day, no place that this machine knows, no file of it either."""
    assert schedule.parse_window(text, zone) is None


def test_retries_come_after_1_2_4_8_and_then_15_minutes_for_ever() -> None:
    """A rotation is never given up."""
    assert [schedule.backoff(n) for n in (1, 2, 3, 4, 5, 6, 7, 1000)] == [5, 60, 120, 240, 480, 900, 900, 900]
    assert schedule.backoff(0) == 5


def test_on_time_is_when_it_arrived_before_it_was_due() -> None:
    """Not when it was begun or made; and how late it is goes on growing until then."""
    assert schedule.on_time(100.0, 100.0)
    assert not schedule.on_time(100.0, 100.1)
    assert not schedule.on_time(100.0, None)
    assert schedule.late_s(100.0, 90.0, None) == 0
    assert schedule.late_s(100.0, 130.0, None) == 30
    assert schedule.late_s(100.0, 130.0, 110.0) == 10
    assert schedule.late_s(100.0, 130.0, 90.0) == 0


@pytest.mark.parametrize(
    ("days_left", "reminder"),
    [(15, None), (14, 14), (7.1, 14), (7, 7), (1.5, 7), (1, 1), (0.1, 1), (0, 0), (-3, 0)],
)
def test_a_person_is_reminded_14_7_and_1_days_before(days_left: float, reminder: int | None) -> None:
    """And told when it is overdue."""
    assert schedule.reminder(100 * DAY_S, (100 - days_left) * DAY_S) == reminder


VERSIONS: Final = st.lists(st.uuids().map(lambda u: Version(str(u))), unique=True, max_size=7)


@given(NAMES, NAMES, VERSIONS)
def test_one_due_date_has_one_rotation(vps: str, group: str, versions: list[Version]) -> None:
    """Its id is a UUID that only depends on what is replaced, in whatever order that is listed."""
    first = schedule.rotation_id(vps, group, versions)
    assert uuid.UUID(first).version == 5
    assert schedule.rotation_id(vps, group, reversed(versions)) == first
    parts = "\n".join([vps, group, *sorted(versions)])
    assert first == str(uuid.uuid5(uuid.UUID(bytes=schedule._NAMESPACE), parts))


@given(NAMES, NAMES, VERSIONS.filter(bool))
def test_another_due_date_has_another(vps: str, group: str, versions: list[Version]) -> None:
    """So have another VPS and another group."""
    first = schedule.rotation_id(vps, group, versions)
    assert first != schedule.rotation_id(vps, group, versions[1:])
    assert first != schedule.rotation_id(vps + "x", group, versions)
    assert first != schedule.rotation_id(vps, group + "x", versions)
