"""Where a secret's life stands on a time line, in per cent of a width that the browser chooses. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DAY_S: Final = 86400.0
_MOST_PAST_S: Final = 400 * DAY_S
_MOST_AHEAD_S: Final = 400 * DAY_S
_MARGIN: Final = 0.04
_STEPS_DAYS: Final = (1, 2, 7, 14, 30, 61, 91, 182)
_MOST_TICKS: Final = 9


@dataclass(frozen=True, slots=True)
class Life:
    """One secret's dates, in seconds; ``due`` None: it never rotates by itself."""

    created: float | None
    due: float | None
    work_at: float | None


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a line, from ``x`` on, ``width`` wide; ``kind`` is past, ahead, late or open."""

    x: str
    width: str
    kind: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point of a line; ``kind`` is due, late or work."""

    x: str
    kind: str


@dataclass(frozen=True, slots=True)
class Line:
    """One secret's line."""

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A date below the lines; a small screen leaves every second one out."""

    x: str
    label: str
    minor: bool


@dataclass(frozen=True, slots=True)
class Axis:
    """The scale that all lines share."""

    now: str
    ticks: tuple[Tick, ...]


class Scale:
    """From the oldest secret to the last date."""

    def __init__(self, lives: Sequence[Life], now: float) -> None:
        past = [life.created for life in lives if life.created is not None]
        ahead = [life.due for life in lives if life.due is not None]
        begin = max(min([*past, *ahead, now]), now - _MOST_PAST_S)
        end = min(max([*ahead, now + 7 * DAY_S]), now + _MOST_AHEAD_S)
        margin = (end - begin) * _MARGIN
        self._begin: Final = begin - margin
        self._end: Final = end + margin
        self._now: Final = now

    def axis(self) -> Axis:
        """Return where now is, and some dates."""
        return Axis(self._x(self._now), tuple(self._ticks()))

    def line(self, life: Life) -> Line:
        """Return one secret's line."""
        now, end = self._now, self._end
        if life.created is None:
            return Line((), ())
        bars, marks = [], []
        if life.due is None:
            bars += [self._bar(life.created, now, "past"), self._bar(now, end, "open")]
        elif life.due < now:
            bars += [self._bar(life.created, life.due, "past"), self._bar(life.due, now, "late")]
            marks.append(Mark(self._x(life.due), "late"))
        else:
            bars += [self._bar(life.created, now, "past"), self._bar(now, life.due, "ahead")]
            if life.work_at is not None and now < life.work_at < life.due:
                marks.append(Mark(self._x(life.work_at), "work"))
            marks.append(Mark(self._x(life.due), "due"))
        return Line(tuple(bars), tuple(marks))

    def _ticks(self) -> Iterator[Tick]:
        days = (self._end - self._begin) / DAY_S
        step = next((each for each in _STEPS_DAYS if days / each <= _MOST_TICKS), _STEPS_DAYS[-1])
        day = datetime.fromtimestamp(self._begin, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        day += timedelta(days=1)
        place = 0
        while day.timestamp() < self._end:
            at = day.timestamp()
            share = (at - self._begin) / (self._end - self._begin)
            if _MARGIN < share < 1 - _MARGIN:  # a label at the rim would be cut
                yield Tick(self._x(at), f"{day.day} {day:%b}", minor=bool(place % 2))
                place += 1
            day += timedelta(days=step)

    def _bar(self, begin: float, end: float, kind: str) -> Bar:
        left, right = self._share(begin), self._share(end)
        return Bar(f"{left:.2f}%", f"{max(0.0, right - left):.2f}%", kind)

    def _x(self, at: float) -> str:
        return f"{self._share(at):.2f}%"

    def _share(self, at: float) -> float:
        return 100 * min(1.0, max(0.0, (at - self._begin) / (self._end - self._begin)))
