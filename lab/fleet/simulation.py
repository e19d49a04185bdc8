"""The fleet in virtual time: one event at a time, in order, until the end of the scenario.

Each VPS has one event to come: the start of its next cycle, or the answer to what its cycle has asked. A
signal replaces the event of a VPS that waits. Nothing here decides when a VPS comes again: its machine does.
"""

from __future__ import annotations

import gc
import heapq
import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agent.core import schedule
from agent.core.errors import Failure, Fault, Step
from agent.core.schedule import Pace
from lab.fleet.cloud import Capacity, Service
from lab.fleet.machine import Generations, Machine

if TYPE_CHECKING:
    from collections.abc import Callable

LATE: Final = Failure(Step.CONNECTION, Fault.TRANSIENT, "a cycle", "it took longer than it may")
LOOK_S: Final = 30.0
"""How often a VPS looks at the beacon."""
WAITING: Final = -1
LOGIN: Final = 0
LIST: Final = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """How many VPSs there are, how they are paced, and what a cycle costs.

    ``calls`` are a cold start's requests to Barbican: one for the list, then ``together`` at a time.
    ``names`` is how many secrets the machine decides over. ``cycle`` is fetch's time for a cycle and
    ``token`` a token's life (s). ``in_step`` leaves out what breaks a fleet's step, for comparison.
    """

    vps: int
    calls: int = 15
    pace: Pace = field(default_factory=Pace)
    names: int = 7
    together: int = 4
    cycle: float = 29.0
    token: float = 3600.0
    in_step: bool = False

    def batches(self) -> tuple[int, ...]:
        """Return the requests that follow the list of a cycle with everything to read, batch by batch."""
        whole, rest = divmod(self.calls - 1, self.together)
        return (self.together,) * whole + ((rest,) if rest else ())


@dataclass(frozen=True, slots=True)
class Events:
    """What happens to the fleet, in seconds from the beginning.

    ``boot`` within how many seconds all start without anything; None: they have run for long. ``rotation``
    when every version is replaced, ``beacon`` when the beacon tells it.
    """

    boot: float | None = None
    rotation: float | None = None
    beacon: float | None = None


@dataclass(slots=True)
class Outcome:
    """What came of it. ``served`` has, for each VPS, when it had what the scenario is about (s)."""

    keystone: Service
    barbican: Service
    served: list[float]
    unserved: int = 0
    starved: float = 0.0
    """The longest that a VPS had no confirmation, or nothing at all after its start (s)."""
    cycles: int = 0
    failed: int = 0


class _Vps:
    __slots__ = ("asked", "batch", "deadline", "due", "failure", "generation", "machine", "since", "token")

    def __init__(self, due: float, since: float) -> None:
        self.machine = Machine()
        self.due = due
        self.batch = WAITING
        self.deadline = 0.0
        self.failure: Failure | None = None
        self.asked = False
        self.token = float("-inf")
        self.since = since
        self.generation = -1


class Simulation:
    """One run. ``aim`` is the moment from which it is counted who has been served (s)."""

    def __init__(
        self,
        fleet: Fleet,
        events: Events,
        keystone: Capacity,
        barbican: Capacity,
        seconds: float,
        *,
        aim: float = 0.0,
        seed: int = 1,
    ) -> None:
        self._fleet: Final = fleet
        self._events: Final = events
        self._seconds: Final = seconds
        self._aim: Final = aim
        self._uniform: Final = random.Random(seed).uniform
        self._generations: Final = Generations(fleet.names, 2)
        self._batches: Final = fleet.batches()
        self._keystone: Final = Service(keystone, seconds)
        self._barbican: Final = Service(barbican, seconds)
        self._vps: Final = [self._new() for _ in range(fleet.vps)]
        self._outcome: Final = Outcome(self._keystone, self._barbican, [])
        self._goal: Final = 0 if events.rotation is None else 1
        self._done: Final = bytearray(fleet.vps)

    def run(self, progress: Callable[[float], None] = lambda _: None) -> Outcome:
        """Run to the end; ``progress`` is told the time now and then."""
        heap = [(vps.due, number) for number, vps in enumerate(self._vps)]
        heap += self._signals()
        heapq.heapify(heap)
        gc.disable()  # millions of small objects that live to the end, and no cycles among them
        try:
            self._loop(heap, progress)
        finally:
            gc.enable()
        for vps in self._vps:
            self._outcome.starved = max(self._outcome.starved, self._seconds - vps.since)
        self._outcome.unserved = self._fleet.vps - sum(self._done)
        return self._outcome

    def _loop(self, heap: list[tuple[float, int]], progress: Callable[[float], None]) -> None:
        pop, push, fleet, count = heapq.heappop, heapq.heappush, self._vps, self._fleet.vps
        told = 0.0
        while heap:
            now, number = pop(heap)
            if now >= self._seconds:
                return
            if now >= told:
                progress(now)
                told = now + 60.0
            if number >= count:  # a signal
                number -= count
                if self._signal(fleet[number], now):
                    push(heap, (fleet[number].due, number))
                continue
            vps = fleet[number]
            if vps.due == now:  # else a signal has replaced it
                vps.due = self._step(vps, number, now)
                push(heap, (vps.due, number))

    def _new(self) -> _Vps:
        """Return a VPS as the scenario begins: one that boots, or one that has run for long."""
        pace, events = self._fleet.pace, self._events
        if events.boot is not None:
            boot = self._uniform(0.0, events.boot)
            return _Vps(boot + schedule.first(pace, self._uniform), boot)
        # of the intervals that a moment falls into the longer ones are the more likely
        least, most = 1 - schedule.POLL_JITTER, 1 + schedule.POLL_JITTER
        interval = pace.poll_interval * math.sqrt(self._uniform(least**2, most**2))
        due = self._uniform(0.0, interval)
        vps = _Vps(due, due - interval)
        vps.token = self._uniform(0.0, self._fleet.token)
        vps.generation = 0
        vps.machine.read(self._generations.new[0], vps.since, pace, self._uniform)
        vps.machine.settled = True
        return vps

    def _signals(self) -> list[tuple[float, int]]:
        """Return when each VPS that has seen the beacon polls; a number past the last VPS is a signal."""
        if self._events.beacon is None:
            return []
        spread, count = self._fleet.pace.spread, self._fleet.vps
        touched = self._events.beacon
        return [
            (touched + self._uniform(0.0, LOOK_S) + self._uniform(0.0, spread), count + number)
            for number in range(count)
        ]

    def _signal(self, vps: _Vps, now: float) -> bool:
        """Have a VPS poll now, or after the cycle that is under way; tell whether its event has changed."""
        vps.asked = True
        if vps.batch != WAITING:
            return False
        vps.due = now
        return True

    def _step(self, vps: _Vps, number: int, now: float) -> float:
        """Go on with a VPS whose event has come; return when its next one comes."""
        if vps.batch == WAITING:
            return self._begin(vps, now)
        if vps.failure is not None:
            return self._failed(vps, now)
        if vps.batch == LOGIN:
            vps.token = now + self._fleet.token
            return self._ask(vps, self._barbican, 1, LIST, now)
        if vps.batch == LIST:
            rotation = self._events.rotation
            vps.generation = int(rotation is not None and now >= rotation)
            if vps.machine.knows(self._generations.known[vps.generation], now):
                return self._read(vps, number, now, new=False)
        done = vps.batch - LIST
        if done < len(self._batches):
            return self._ask(vps, self._barbican, self._batches[done], vps.batch + 1, now)
        return self._read(vps, number, now, new=True)

    def _begin(self, vps: _Vps, now: float) -> float:
        self._outcome.cycles += 1
        vps.deadline = now + self._fleet.cycle
        if vps.asked:
            vps.machine.disturb()
            vps.asked = False
        if now < vps.token:
            return self._ask(vps, self._barbican, 1, LIST, now)
        return self._ask(vps, self._keystone, 1, LOGIN, now)

    def _ask(self, vps: _Vps, service: Service, requests: int, batch: int, now: float) -> float:
        """Send requests; whoever is not answered by the end of the cycle's time has failed then."""
        answered, vps.failure = service.ask(now, requests)
        vps.batch = batch
        if answered > vps.deadline:
            vps.failure = LATE
            return vps.deadline
        return answered

    def _read(self, vps: _Vps, number: int, now: float, *, new: bool) -> float:
        """End a cycle that was answered."""
        readings = self._generations.new if new else self._generations.known
        vps.machine.settled |= self._fleet.in_step
        wait = vps.machine.read(readings[vps.generation], now, self._fleet.pace, self._uniform)
        if vps.machine.confirmed == now:
            self._outcome.starved = max(self._outcome.starved, now - vps.since)
            vps.since = now
            if now >= self._aim and vps.generation == self._goal and not self._done[number]:
                self._done[number] = 1
                self._outcome.served.append(now)
        return self._wait(vps, now, wait)

    def _failed(self, vps: _Vps, now: float) -> float:
        """End a cycle that failed."""
        self._outcome.failed += 1
        assert vps.failure is not None  # noqa: S101  # the caller looked
        return self._wait(vps, now, vps.machine.fail(vps.failure, now, self._fleet.pace, self._uniform))

    def _wait(self, vps: _Vps, now: float, wait: float) -> float:
        vps.batch, vps.failure = WAITING, None
        return now if vps.asked else now + wait
