"""What calls and secrets cost in a month, from what was counted. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deployer.worker.recording import arriving_pause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lab.bench_deployer.acts import Cost

BEGIN: Final = "<!-- make bench-deployer: money, begin -->"
END: Final = "<!-- make bench-deployer: money, end -->"
CALL_EUR: Final = 0.01 / 1000
SECRET_EUR: Final = 0.02
"""A month."""
VPSS: Final = 100
NAMES: Final = 7
"""Each rotates once a month."""
DAYS: Final = 30
INTERVAL_H: Final = 1.0
"""The worker's default between two looks."""
POLLS_H: Final = 4
"""Of an agent in an hour; one that finds nothing new is one call."""
READ_CALLS: Final = 3
"""Of an agent for each rotation: the beacon's signal is a poll more, and two calls read what is new."""
ACKNOWLEDGE_CALLS: Final = 3
"""Of an agent, for each generation that it serves (docs/figures.md, "Other figures")."""
BEACON_S: Final = 15.0
POLL_S: Final = 900.0
"""When a VPS has a rotation at last: with a beacon in the middle, without at the latest."""
LIMIT_EUR: Final = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the bill: calls of a VPS in a month, from the least to the most."""

    what: str
    least: float
    most: float


def arrival_looks(arrives_s: float) -> int:
    """Return how often the worker looks for a rotation that arrives this long after it was listed."""
    looks, at = 0, 0.0
    while at < arrives_s:
        at += arriving_pause(at)
        looks += 1
    return looks


def lines(costs: Mapping[str, Cost]) -> list[Line]:
    """Return the bill of a VPS. Its parts do not overlap: a daily look is one of the hourly ones."""
    hourly, daily, rotation = costs["quiet look"], costs["daily look"], costs["rotation"]
    arrival, clean_up = costs["arrival look"], costs["clean-up"]
    looks = DAYS * 24 / INTERVAL_H
    least, most = (NAMES * arrival.calls * arrival_looks(at) for at in (BEACON_S, POLL_S))
    polls = DAYS * 24 * POLLS_H + NAMES * READ_CALLS
    same = (
        ("an agent that polls every 15 minutes, with a beacon", float(polls)),
        ("`acknowledge = true`: three calls for each rotation", float(NAMES * ACKNOWLEDGE_CALLS)),
        ("the deployer's look every hour", looks * hourly.calls),
        ("once a day it looks at everything", DAYS * (daily.calls - hourly.calls)),
        ("seven rotations", NAMES * rotation.calls),
        ("each former version is deleted after a day", NAMES * (clean_up.calls - hourly.calls)),
        ("a backup each day: Barbican is not asked", 0.0),
    )
    found = [Line(what, calls, calls) for what, calls in same]
    found.insert(5, Line("looks for their arrival, with a beacon, and without", least, most))
    return found


def total(costs: Mapping[str, Cost]) -> tuple[float, float]:
    """Return what all VPSs cost in a month, at least and at most (EUR)."""
    calls = lines(costs)
    secrets = VPSS * NAMES * SECRET_EUR * (1 + 1 / DAYS)
    least, most = (line_sum * CALL_EUR * VPSS + secrets for line_sum in _sums(calls))
    return least, most


def table(costs: Mapping[str, Cost]) -> str:
    """Return the bill in Markdown."""
    return "\n".join(_table(costs)) + "\n"


def _table(costs: Mapping[str, Cost]) -> Iterator[str]:
    found = lines(costs)
    yield f"| | calls a month | EUR a month for {VPSS} VPSs |"
    yield "|---|---|---|"
    for line in found:
        yield f"| {line.what} | {_span(line.least, line.most, ',.0f')} | {_eur(line.least, line.most)} |"
    least, most = _sums(found)
    yield f"| **calls of a VPS** | **{_span(least, most, ',.0f')}** | **{_eur(least, most)}** |"
    secrets = VPSS * NAMES * SECRET_EUR
    yield f"| {VPSS * NAMES} secrets | | {secrets:.2f} |"
    yield f"| former versions, for a day each | | {secrets / DAYS:.2f} |"
    yield f"| **all** | | **{_span(*total(costs), '.2f')}** |"
    yield ""
    once = costs["provision"].calls
    longer = costs["quiet look"].calls * DAYS * 24 * (1 - 1 / 4) * CALL_EUR * VPSS
    yield (
        f"Once: {once:.0f} calls to provision a VPS. A longer `worker.interval` is what saves most: "
        f"4h instead of 1h, EUR {longer:.2f}."
    )


def _sums(found: list[Line]) -> tuple[float, float]:
    return sum(line.least for line in found), sum(line.most for line in found)


def _eur(least: float, most: float) -> str:
    return _span(least * CALL_EUR * VPSS, most * CALL_EUR * VPSS, ".2f")


def _span(least: float, most: float, form: str) -> str:
    one, other = format(least, form), format(most, form)
    return one if one == other else f"{one} to {other}"
