"""Moments and durations as people read them. Pure; everything is UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_STEPS: Final = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
_JUST: Final = 5.0
_KIB: Final = 1024
_FAR: Final = 253402300799.0  # the year 9999


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment: for machines, exactly, and from now."""

    iso: str
    exact: str
    near: str


def moment(at: float | None, now: float) -> Moment | None:
    """Return a moment, or None where there is none."""
    if at is None or not 0 <= at <= _FAR:
        return None
    when = datetime.fromtimestamp(at, UTC)
    return Moment(when.strftime("%Y-%m-%dT%H:%M:%SZ"), when.strftime("%Y-%m-%d %H:%M UTC"), from_now(at, now))


def from_now(at: float, now: float) -> str:
    """Return ``in 7 days``, ``3 hours ago``, ``just now``."""
    away = at - now
    if abs(away) < _JUST:
        return "just now"
    return f"in {span(away)}" if away > 0 else f"{span(-away)} ago"


def span(seconds: float) -> str:
    """Return a duration in its largest unit; of few units also the next smaller one."""
    for place, (size, unit) in enumerate(_STEPS):
        count = int(seconds // size)
        if count:
            said = _counted(count, unit)
            if count == 1 and place + 1 < len(_STEPS):
                smaller, name = _STEPS[place + 1]
                rest = int((seconds - size) // smaller)
                said += f" {_counted(rest, name)}" if rest else ""
            return said
    return "no time"


def number(count: int) -> str:
    """Return a whole number with its thousands apart."""
    return f"{count:,}"


def size(count: int) -> str:
    """Return bytes as people read them."""
    amount, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while amount >= _KIB and len(units) > 1:
        amount /= _KIB
        units.pop(0)
    return f"{amount:.0f} {units[0]}" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def share(part: int, whole: int) -> str:
    """Return per cent, rounded down: 100 % is all of them."""
    tenths = part * 1000 // whole if whole else 1000
    return f"{tenths // 10}.{tenths % 10} %" if tenths % 10 else f"{tenths // 10} %"


def _counted(count: int, unit: str) -> str:
    return f"{number(count)} {unit}{'' if count == 1 else 's'}"
