"""The days on which a whole fleet does the same thing, and what they come to.

A scenario has one cause, at ``at`` seconds; before it the fleet polls as it always does, and afterwards it is
followed for ``after`` seconds, to see that it has not fallen into step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.core.schedule import Pace, fleet_spread
from lab.fleet.cloud import Capacity
from lab.fleet.simulation import Events, Fleet, Outcome, Simulation
from lab.fleet.waves import Waves, waves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BARBICAN: Final = Capacity(rate=500.0)
"""What the Barbican of a fleet of 10,000 is to bear."""
KEYSTONE: Final = Capacity(rate=200.0)
WITHIN_S: Final = 300.0
"""All are to be served within this long."""
BOOT_S: Final = 5.0
"""Within how long machines that start together start."""
QUIET_S: Final = 600.0
Span: TypeAlias = tuple[float, float]
NEVER: Final = (0.0, 0.0)
CUT: Final = (60.0, 120.0)
SETTLED_S: Final = 1200.0
"""From how long after its cause on a fleet should look as if nothing had happened."""
MANY: Final = 50_000
"""From here on requests are simulated in fewer, larger batches, and one name stands for all of a VPS's."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One cause and its fleet."""

    name: str
    text: str
    fleet: Fleet
    events: Events
    barbican: Capacity
    keystone: Capacity
    at: float = 0.0
    after: float = 4 * 3600.0

    def run(self, progress: Callable[[float], None] = lambda _: None) -> Outcome:
        """Simulate it."""
        seconds = self.at + self.after
        return Simulation(self.fleet, self.events, self.keystone, self.barbican, seconds, aim=self.at).run(
            progress
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What a scenario came to. Times in seconds, loads in requests to Barbican a second.

    ``last`` is when the last VPS was served, from the cause on; ``peak_1`` and ``peak_10`` the most in one
    second and in ten, ``queue`` the longest wait for an answer; ``waves`` what is left of it hours later.
    """

    name: str
    last: float
    unserved: int
    peak_1: float
    peak_10: float
    queue: float
    failed: int
    starved: float
    waves: Waves

    def keeps_promise(self, capacity: float) -> bool:
        """Return whether all were served in time, the peak was within the capacity, and no waves are left."""
        in_time = not self.unserved and self.last <= WITHIN_S
        return in_time and self.peak_10 <= capacity and not self.waves.are_there


def pace_of(fleet_size: int, calls: int) -> Pace:
    """Return the agent's default pace in a fleet of this size."""
    spread = fleet_spread(fleet_size, calls)
    return Pace(start_jitter=spread, spread=spread)


def fleet_of(vps: int, calls: int, fleet_size: int | None = None) -> Fleet:
    """Return a fleet with the agent's defaults for ``fleet_size``, which is its true size unless given."""
    fleet = Fleet(vps, calls, pace_of(fleet_size or vps, calls))
    return replace(fleet, names=1, together=calls - 1) if vps >= MANY else fleet


def all_of(
    fleet: Fleet, barbican: Capacity = BARBICAN, keystone: Capacity = KEYSTONE, hours: float = 4.0
) -> list[Scenario]:
    """Return every scenario for a fleet."""
    hour, boot = 3600.0, Events(boot=BOOT_S)

    def scenario(name: str, text: str, events: Events, away: Span = NEVER, at: float = 0.0) -> Scenario:
        services = [replace(service, outage=away) for service in (barbican, keystone)]
        return Scenario(name, text, fleet, events, services[0], services[1], at, hours * hour)

    back, rotated = QUIET_S + hour, Events(rotation=QUIET_S)
    return [
        scenario("boot", "all reboot at once", boot),
        scenario("boot, cut", "all reboot; Barbican is away for the second minute", boot, CUT),
        scenario("boot, away", "all reboot while Barbican is away for 10 minutes", boot, (0.0, 600.0), 600.0),
        scenario("outage", "Barbican is away for an hour", Events(), (QUIET_S, back), back),
        scenario("rotation", "everything is rotated; polls notice it", rotated, at=QUIET_S),
        scenario(
            "beacon", "everything is rotated; a beacon tells it", replace(rotated, beacon=QUIET_S), at=QUIET_S
        ),
    ]


def without_remedy(vps: int, calls: int, barbican: Capacity = BARBICAN, hours: float = 4.0) -> list[Scenario]:
    """Return the reboot of a fleet as it would be without each of the remedies."""
    bare = Fleet(vps, calls, Pace(), in_step=True)
    start_only = replace(bare, pace=replace(pace_of(vps, calls), spread=0.0))

    def scenario(name: str, text: str, fleet: Fleet, away: Span = NEVER) -> Scenario:
        services = [replace(service, outage=away) for service in (barbican, KEYSTONE)]
        return Scenario(name, text, fleet, Events(boot=BOOT_S), services[0], services[1], 0.0, hours * 3600.0)

    return [
        scenario("no jitter", "no jitter: all reboot at once", bare),
        scenario(
            "narrow retries", "retries not spread: Barbican is away for the second minute", start_only, CUT
        ),
        scenario("in step", "polls in step: all reboot at once", start_only),
    ]


def summary(scenario: Scenario, outcome: Outcome) -> Summary:
    """Return what a run came to, from its cause on."""
    begin, end = int(scenario.at), int(scenario.at + scenario.after)
    load = outcome.barbican.load[begin:end]
    return Summary(
        scenario.name,
        max(outcome.served, default=scenario.at) - scenario.at,
        outcome.unserved,
        most(load, 1),
        most(load, 10),
        outcome.barbican.longest_queue,
        outcome.failed,
        outcome.starved,
        waves(load[int(SETTLED_S) :]),
    )


def most(load: Sequence[int], window: int) -> float:
    """Return the highest mean load of any ``window`` seconds in a row."""
    total = sum(load[:window])
    highest = total
    for second in range(window, len(load)):
        total += load[second] - load[second - window]
        highest = max(highest, total)
    return highest / window


def served_shares(outcome: Outcome, vps: int, points: int = 200) -> list[tuple[float, float]]:
    """Return when which share of the fleet was served, thinned out for a drawing."""
    served = sorted(outcome.served)
    step = max(1, len(served) // points)
    return [(time, (number + 1) / vps) for number, time in enumerate(served)][::step] + (
        [(served[-1], len(served) / vps)] if served else []
    )
