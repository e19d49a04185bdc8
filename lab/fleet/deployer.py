"""A fleet's secrets in the hands of its workers: what a day asks of Barbican, PostgreSQL and workers.

Dates are the deployer's own (deployer/core/schedule.py), looks come as its loop plans them, each costs what
was measured (lab/fleet/deployer.json). A sample of the fleet is followed, one event after the other, and
multiplied. Workers are one queue: together they make so many calls a second, in the order in which it is due.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from deployer.core import schedule
from deployer.core.schedule import DAY_S, HOUR_S
from deployer.worker.recording import arriving_pause
from lab.bench_deployer.money import arrival_looks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.bench_deployer.acts import Cost

PERIODS_DAYS: Final = (30, 30, 30, 30, 90, 90, 90)
"""Of the seven secrets of a VPS, each a group of its own."""
ARRIVES_S: Final = 30.0
"""When a VPS serves what is listed: with a beacon."""
RETRY_S: Final = 900.0
"""So the looks that an outage has failed are spread after it."""
WORKER_CALLS_S: Final = 10.0
"""The bucket of one worker, as it is shipped."""
RESERVE: Final = 2.0
"""The workers' calls a second together, as a multiple of what a usual day asks on average."""
STILL_S: Final = 60.0
"""Whoever waits longer waits for what an outage has left."""
SAMPLE: Final = 5_000
LOOK, DAILY, ROTATION, ARRIVAL, CLEAN_UP = "quiet look", "daily look", "rotation", "arrival look", "clean-up"
ACTS: Final = (LOOK, DAILY, ROTATION, ARRIVAL, CLEAN_UP)


@dataclass(frozen=True, slots=True)
class Day:
    """What is followed: ``days`` of a fleet that was made over ``made_s``, the last of it ``age_s`` ago (s).

    ``away``: from when to when Barbican is away (s). ``daily_at_midnight`` has every VPS looked at in the
    hour after midnight, as it once was: for comparison.
    """

    name: str
    text: str
    days: float
    made_s: float = 90 * DAY_S
    age_s: float = 0.0
    away: tuple[float, float] = (0.0, 0.0)
    daily_at_midnight: bool = False


@dataclass(slots=True)
class Seen:
    """What was seen, for the whole fleet. ``hours``: calls of each act in each hour."""

    hours: list[Counter[str]]
    acts: Counter[str] = field(default_factory=Counter)
    late: int = 0
    """Secrets that arrived after they were due."""
    caught_up: float = 0.0
    """When, after the outage, nothing waited any more (s)."""
    longest_wait: float = 0.0

    def calls(self, costs: Mapping[str, Cost]) -> float:
        """Return all calls."""
        return sum(count * costs[act].calls for act, count in self.acts.items())

    def of(self, costs: Mapping[str, Cost], key: str) -> float:
        """Return what all acts cost together: ``cpu_ms``, ``statements``, ``rows`` or ``wal_kb``."""
        return sum(count * float(getattr(costs[act], key)) for act, count in self.acts.items())


DAYS: Final = (
    Day("a usual day", "a usual day", 2),
    Day(
        "daily looks at midnight",
        "the same, if all daily looks came after midnight",
        2,
        daily_at_midnight=True,
    ),
    Day("away for a day", "Barbican is away for a day", 4, away=(DAY_S, 2 * DAY_S)),
    Day("made in a day", "all were made on one day: their first rotation", 5, DAY_S, 26 * DAY_S),
)


def hourly(seen: Seen, costs: Mapping[str, Cost]) -> list[dict[str, float]]:
    """Return the calls a second of each act, hour by hour."""
    return [{act: hour[act] * costs[act].calls / HOUR_S for act in ACTS} for hour in seen.hours[:-1]]


def line(day: Day, seen: Seen, costs: Mapping[str, Cost]) -> str:
    """Return what one of the days came to, for a day on average; what follows an outage is told in hours."""
    calls = [sum(hour.values()) for hour in hourly(seen, costs)]
    caught = f"; all is caught up {seen.caught_up / HOUR_S:.1f} h after its return" if day.away[1] else ""
    cpu = seen.of(costs, "cpu_ms")
    return (
        f"{day.name:<24} {seen.calls(costs) / day.days:>13,.0f} {max(calls):>9,.0f}"
        f" {seen.of(costs, 'statements') / day.days:>13,.0f} {seen.of(costs, 'rows') / day.days:>12,.0f}"
        f" {seen.of(costs, 'wal_kb') / day.days / 1e6:>7,.1f} {cpu / day.days / 3.6e6:>7,.0f}"
        f" {seen.acts[ROTATION] / day.days:>10,.0f} {seen.late:>6,} {seen.longest_wait:>8,.0f}s{caught}"
    )


HEAD: Final = (
    f"{'a day on average':<24} {'calls':>13} {'peak/s':>9} {'statements':>13} {'rows':>12} {'WAL GB':>7}"
    f" {'CPU h':>7} {'rotations':>10} {'late':>6} {'waited':>9}"
)


def usual_calls_s(costs: Mapping[str, Cost], vps: int) -> float:
    """Return the mean of a usual day: calls a second of all workers."""
    rotations = sum(1 / days for days in PERIODS_DAYS)
    arrivals = arrival_looks(ARRIVES_S) * costs[ARRIVAL].calls
    a_day = 23 * costs[LOOK].calls + costs[DAILY].calls
    a_day += rotations * (costs[ROTATION].calls + arrivals + costs[CLEAN_UP].calls)
    return vps * a_day / DAY_S


def follow(day: Day, costs: Mapping[str, Cost], vps: int, sample: int = SAMPLE, seed: int = 1) -> Seen:
    """Follow a sample of the fleet through a day or more."""
    return _Following(day, costs, vps, min(sample, vps), seed).run()


class _Following:
    """One run."""

    def __init__(self, day: Day, costs: Mapping[str, Cost], vps: int, sample: int, seed: int) -> None:
        self._day: Final = day
        self._costs: Final = costs
        self._times: Final = vps / sample
        self._rate: Final = RESERVE * usual_calls_s(costs, vps) / self._times
        self._uniform: Final = random.Random(seed).uniform
        self._end: Final = day.days * DAY_S
        self._free_at = 0.0
        self._heap: list[tuple[float, int, str, int]] = []
        self._seen: Final = Seen([Counter() for _ in range(int(day.days * 24) + 1)])
        self._ids: Final = [f"vps-{number:06}" for number in range(sample)]
        self._next_daily: Final = [0.0] * sample
        self._due: Final = [[0.0] * len(PERIODS_DAYS) for _ in range(sample)]
        for number in range(sample):
            self._begin(number)

    def run(self) -> Seen:
        """Run to the end."""
        heap = self._heap
        while heap and heap[0][0] < self._end:
            at, number, act, slot = heapq.heappop(heap)
            begin, end = self._day.away
            if begin <= at < end:  # nothing is answered; each look is tried again a quarter of an hour later
                again = end + self._uniform(0, RETRY_S)
                heapq.heappush(heap, (again, number, DAILY if act == LOOK else act, slot))
            else:
                self._do(at, number, act, slot)
        return self._seen

    def _begin(self, number: int) -> None:
        """Give a VPS its dates, as rotations in time have left them."""
        age = self._day.age_s + self._uniform(0, self._day.made_s)
        for slot in range(len(PERIODS_DAYS)):
            self._plan(number, slot, -(age % self._work_at(number, slot, 0.0)))
        self._next_daily[number] = self._daily_after(number, 0.0)
        heapq.heappush(self._heap, (self._uniform(0, HOUR_S), number, LOOK, 0))

    def _plan(self, number: int, slot: int, created: float) -> None:
        self._due[number][slot] = created + PERIODS_DAYS[slot] * DAY_S
        at = self._work_at(number, slot, created)
        heapq.heappush(self._heap, (at, number, ROTATION, slot))

    def _work_at(self, number: int, slot: int, created: float) -> float:
        """Return when the deployer begins to replace what was created at a moment."""
        period = PERIODS_DAYS[slot] * DAY_S
        return schedule.work_at(created + period, schedule.lead(period), self._ids[number], str(slot))

    def _daily_after(self, number: int, at: float) -> float:
        share = 0.0 if self._day.daily_at_midnight else schedule.share(self._ids[number])
        begin = share * DAY_S
        return begin + ((at - begin) // DAY_S + 1) * DAY_S

    def _do(self, at: float, number: int, act: str, slot: int) -> None:
        if act == LOOK and at >= self._next_daily[number]:
            act = DAILY
        if act == DAILY:
            self._next_daily[number] = self._daily_after(number, at)
        done = self._serve(at, act)
        push = heapq.heappush
        if act in {LOOK, DAILY}:
            push(self._heap, (done + HOUR_S, number, LOOK, 0))
        elif act == ROTATION:
            self._seen.late += round(self._times) if done + ARRIVES_S > self._due[number][slot] else 0
            looked = 0.0
            while looked < ARRIVES_S:
                looked += arriving_pause(looked)
                push(self._heap, (done + looked, number, ARRIVAL, slot))
            push(self._heap, (done + DAY_S, number, CLEAN_UP, slot))
            self._plan(number, slot, done)

    def _serve(self, at: float, act: str) -> float:
        """Take the workers' time for an act; return when it is done."""
        seen = self._seen
        begin = max(at, self._free_at)
        self._free_at = begin + self._costs[act].calls / self._rate
        seen.longest_wait = max(seen.longest_wait, begin - at)
        if at >= self._day.away[1] > 0 and begin - at > STILL_S:
            seen.caught_up = self._free_at - self._day.away[1]
        if begin < self._end:
            seen.acts[act] += round(self._times)
            seen.hours[int(begin // HOUR_S)][act] += round(self._times)
        return self._free_at
