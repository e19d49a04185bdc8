"""When a secret is due, when the work on it begins, when it is tried again: arithmetic, without a clock.

All moments are seconds since 1970, UTC, so that no change of a clock to summer time moves one. A version is
due at *created* (Barbican's date of it) plus its interval; nothing of ours remembers a date that could drift.
On time means that the VPS serves the new version before the former one was due, so the work begins earlier,
by :func:`lead`, and at a moment of its own for each VPS and group, so that a fleet is spread.

A window is by the wall clock of a place. When that clock is put forward or back, part of a window, or all of
it, may be missing on that day, or come twice; whatever :func:`work_at` returns is inside by the wall clock.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from common.names import Version

HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
LEADS_EARLIER: Final = 5
"""How many leads before it is due work may begin for a window's sake: half of an interval of 10 h or more."""
WINDOW_NEEDS_S: Final = 7 * DAY_S
"""The shortest interval that always has a window in time: a day may have none when the clock changes."""
BACKOFF_S: Final = (5.0, 60.0, 120.0, 240.0, 480.0, 900.0)
"""Seconds to wait after the first, second … failure in a row; the last one for all that follow.

The first is short: one answer in many fails for no reason, and a VPS that joins is not to wait a minute then.
"""
REMINDERS_DAYS: Final = (14, 7, 1)
"""When a person is reminded of a value that only a person can replace: days before it is due."""

_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d) (\S+)", re.ASCII)
_NAMESPACE: Final = bytes.fromhex("6f0d6b0e3c0b5d2f9d5a8f1f9f3f7a11")
_MINUTES: Final = 1440


@dataclass(frozen=True, slots=True)
class Window:
    """A part of each day, by the wall clock of a place: from minute ``begin`` to minute ``end`` of the day.

    ``end`` is not part of it, and is of the next day where it is not after ``begin``. ``zone`` is the name of
    ``rules``, as the operator wrote it.
    """

    begin: int
    end: int
    zone: str
    rules: tzinfo

    def __str__(self) -> str:
        """``02:00-05:00 Europe/Amsterdam``, as it is written in a blueprint."""
        begin, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.begin, self.end))
        return f"{begin}-{end} {self.zone}"

    def holds(self, moment: float) -> bool:
        """Tell whether the wall clock of the place is inside the window at this moment."""
        local = datetime.fromtimestamp(moment, UTC).astimezone(self.rules)
        minute = local.hour * 60 + local.minute
        return (minute - self.begin) % _MINUTES < (self.end - self.begin) % _MINUTES


def parse_window(text: str, zone: Callable[[str], tzinfo | None]) -> Window | None:
    """Return the window of ``02:00-05:00 Europe/Amsterdam``, or None where it is none, or an empty one.

    ``zone`` returns the rules of a place's clock, or None where it knows no such place.
    """
    match = _WINDOW.fullmatch(text)
    if match is None:
        return None
    begin, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    rules = zone(match[5])
    return Window(begin, end, match[5], rules) if rules is not None and begin != end else None


def due(created: float, rotate_s: float | None) -> float | None:
    """Return when a version must have been replaced; None where it never is."""
    return None if rotate_s is None else created + rotate_s


def lead(rotate_s: float) -> float:
    """Return how long before it is due the work on a version begins (s).

    A tenth of its interval, at least an hour, so that a short outage makes nothing late; at most half of it,
    so that there is a pause between two rotations however short the interval is.
    """
    return min(max(HOUR_S, rotate_s / 10), rotate_s / 2)


def work_at(due: float, lead: float, vps_id: str, group: str, window: Window | None = None) -> float:
    """Return when the work on a group begins: always the same moment for the same arguments.

    Without a window it is in the first half of the lead: the other half is there for what goes wrong. With
    one it is in a window of that half, or else in the last window before the lead began, up to
    :data:`LEADS_EARLIER` leads before it is due. Where there is none of these either, the deadline wins.
    """
    at = share(vps_id, group)
    begin, half = due - lead, lead / 2
    if window is not None:
        inside = list(_clipped(_openings(window, begin, begin + half), begin, begin + half))
        if not inside and lead > HOUR_S:  # below, the lead is no tenth of the interval
            earliest = due - LEADS_EARLIER * lead
            inside = list(_clipped(_openings(window, earliest, begin), earliest, begin))[-1:]
        if inside:
            return _within(inside, at)
    return begin + at * half


def backoff(failures: int) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (1 is the first)."""
    return BACKOFF_S[min(max(failures, 1), len(BACKOFF_S)) - 1]


def on_time(due: float, arrived: float | None) -> bool:
    """Tell whether what was due is replaced in time: the VPS served the new version before."""
    return arrived is not None and arrived <= due


def late_s(due: float, now: float, arrived: float | None) -> float:
    """Return how late it is, or was when it arrived (s); 0 where it is not late (yet)."""
    return max(0.0, (now if arrived is None else arrived) - due)


def reminder(due: float, now: float) -> int | None:
    """Return the reminder that holds now: days of :data:`REMINDERS_DAYS`, 0 when overdue, None before all."""
    left = due - now
    if left <= 0:
        return 0
    return min((days for days in REMINDERS_DAYS if left <= days * DAY_S), default=None)


def rotation_id(vps_id: str, group: str, replaced: Iterable[Version]) -> str:
    """Return the id of the scheduled rotation that replaces these versions: a UUID (version 5, RFC 9562).

    The same versions have the same id, also after the database was lost: so nothing is made twice for one due
    date. The parts are joined with a line break, which none of them can hold.
    """
    name = "\n".join([vps_id, group, *sorted(replaced)]).encode()
    digest = bytearray(hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def share(vps_id: str, group: str = "") -> float:
    """Return a number from 0 to 1 (not 1 itself) that a VPS, or a group of it, always gets, as if drawn."""
    digest = hashlib.sha256(f"{vps_id}\n{group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _openings(window: Window, since: float, until: float) -> Iterator[tuple[float, float]]:
    """Yield each (opening, closing) that may reach into [since, until), in order."""
    day = datetime.fromtimestamp(since, UTC).astimezone(window.rules).date() - timedelta(days=1)
    last = datetime.fromtimestamp(until, UTC).astimezone(window.rules).date()
    while day <= last:
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001  # a wall clock's, see _moments
        to = window.end if window.end > window.begin else window.end + _MINUTES
        # of a minute that comes twice: opening at its second time, closing at its first; so that all between
        # is inside by the wall clock. A minute that is left out gets the same care.
        opening = max(_moments(midnight + timedelta(minutes=window.begin), window.rules))
        closing = min(_moments(midnight + timedelta(minutes=to), window.rules))
        if opening < closing:
            yield opening, closing
        day += timedelta(days=1)


def _moments(wall: datetime, rules: tzinfo) -> tuple[float, float]:
    """Return the moments of a wall clock's time: the same twice, but around a change of the clock."""
    first, second = (wall.replace(tzinfo=rules, fold=fold).timestamp() for fold in (0, 1))
    return first, second


def _clipped(
    openings: Iterable[tuple[float, float]], since: float, until: float
) -> Iterator[tuple[float, float]]:
    """Yield what of the openings is inside [since, until)."""
    for opening, closing in openings:
        if max(opening, since) < min(closing, until):
            yield max(opening, since), min(closing, until)


def _within(pieces: list[tuple[float, float]], share: float) -> float:
    """Return the moment at ``share`` (0 to 1, not 1) of the pieces put end to end."""
    at = share * sum(closing - opening for opening, closing in pieces)
    for opening, closing in pieces:
        if opening + at < closing:
            return opening + at
        at -= closing - opening
    return pieces[-1][0]  # where rounding has lost the last microsecond
