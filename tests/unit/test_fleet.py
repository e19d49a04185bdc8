"""fleet/: the model's queue, its machines and its measures; and a small fleet through every bad day."""

from __future__ import annotations

import random

import pytest

from agent.core.schedule import Pace
from deployer.core.schedule import DAY_S
from lab.bench_deployer import acts
from lab.bench_deployer.acts import Cost
from lab.fleet import deployer, scenarios
from lab.fleet.__main__ import borne_by_testbed
from lab.fleet.cloud import AWAY, Capacity, Service
from lab.fleet.machine import Generations, Machine
from lab.fleet.scenarios import all_of, fleet_of, most, summary, without_remedy
from lab.fleet.simulation import Events, Fleet, Simulation
from lab.fleet.waves import highest_by_chance, waves

FLEET = 500
MORE = ((20.0, 3), (20.5, 1), (23.0, 1))
SMALL = Capacity(rate=25.0)
"""For 500 VPSs what 500/s is for 10,000."""


def test_a_service_answers_in_order_at_its_rate() -> None:
    """Each request takes its share of the rate, and waits for those before it."""
    service = Service(Capacity(rate=10.0, latency=0.5), 60.0)
    answered = [service.ask(now, requests) for now, requests in ((1.0, 1), (1.0, 4), (30.0, 1))]
    assert [when for when, _ in answered] == pytest.approx([1.6, 2.0, 30.6])
    assert [failure for _, failure in answered] == [None, None, None]
    assert (service.load[1], service.load[30], sum(service.load)) == (5, 1, 6)
    assert service.longest_queue == pytest.approx(0.1)


def test_a_service_that_is_away_refuses_and_one_that_is_full_says_503() -> None:
    """Neither costs it anything."""
    service = Service(Capacity(rate=1.0, queue=2.0, retry_after=30.0, outage=(10.0, 20.0)), 60.0)
    assert service.ask(10.0, 1)[1] is AWAY
    (taken, _), (told, full), (later, _) = (service.ask(now, requests) for now, requests in MORE)
    assert [taken, told, later] == pytest.approx([23.02, 20.52, 24.02])
    assert full is not None
    assert (full.status, full.retry_after, sum(service.refused)) == (503, 30.0, 2)


def test_what_was_measured_makes_a_model() -> None:
    """lab/fleet/testbed.json is what ``--measure`` writes: two services with some requests a second."""
    for capacity in borne_by_testbed():
        assert 1 < capacity.rate < 10_000
        assert 0 < capacity.latency < 1


def test_a_machine_decides_as_the_agent_does() -> None:
    """It publishes what it reads, keeps it on a failure, and knows what needs no reading."""
    generations, machine, uniform = Generations(3, 2), Machine(), random.Random(1).uniform
    assert not machine.knows(generations.known[0], 0.0)
    assert machine.read(generations.new[0], 5.0, Pace(), uniform) <= 900.0
    assert machine.held == generations.facts[0]
    assert machine.knows(generations.known[0], 6.0)
    assert machine.fail(AWAY, 10.0, Pace(), uniform) <= 3.0
    assert (machine.held, machine.confirmed, machine.failures) == (generations.facts[0], 5.0, 1)
    assert not machine.knows(generations.known[1], 11.0)
    machine.read(generations.new[1], 12.0, Pace(), uniform)
    assert (machine.held, machine.confirmed, machine.failures) == (generations.facts[1], 12.0, 0)


def test_what_chance_gives_is_no_wave_and_a_fleet_in_step_is() -> None:
    """Calls that know nothing of each other, against calls that come in every second minute only."""
    draw = random.Random(3)
    chance = [sum(draw.random() < 0.1 for _ in range(100)) for _ in range(3000)]
    found = waves(chance)
    assert not found.are_there
    assert found.mean == pytest.approx(10.0, rel=0.05)
    assert found.peak_10 == pytest.approx(found.chance_10, rel=0.15)
    step = waves([2 * load if second // 60 % 2 else 0 for second, load in enumerate(chance)])
    assert step.are_there
    assert step.dispersion > 50
    assert step.swing == pytest.approx(1.0, rel=0.1)


def test_the_highest_count_by_chance() -> None:
    """Against the Poisson distribution's own sums: P(X > 4) = 0.0037 and P(X > 3) = 0.019 at a mean of 1."""
    assert highest_by_chance(1.0, 100) == 4
    assert highest_by_chance(1.0, 20) == 3


def test_the_highest_mean_of_any_window() -> None:
    """Windows overlap: it does not matter where they begin."""
    assert most([0, 0, 9, 3, 0, 0], 1) == 9
    assert most([0, 0, 9, 3, 0, 0], 2) == 6


@pytest.mark.parametrize("calls", [9, 15])
@pytest.mark.slow
def test_a_small_fleet_keeps_its_promises(calls: int) -> None:
    """500 VPSs and a Barbican for so many, through every scenario: the peak fits, no waves are left."""
    for scenario in all_of(fleet_of(FLEET, calls, 10_000), SMALL, Capacity(rate=10.0), hours=1.5):
        found = summary(scenario, scenario.run())
        assert found.unserved == 0, scenario.name
        assert found.peak_10 <= 1.2 * SMALL.rate, scenario.name  # of so few, chance makes more of a peak
        assert not found.waves.are_there, scenario.name
        assert found.queue < 5.0, scenario.name
        if scenario.name in {"boot", "beacon"} and calls == 9:
            assert found.last <= scenarios.WITHIN_S


@pytest.mark.slow
def test_without_the_remedies_the_same_fleet_does_not() -> None:
    """The measures can fail: no jitter is an overload, and polls in step are waves."""
    bare, narrow, in_step = (
        summary(scenario, scenario.run()) for scenario in without_remedy(FLEET, 9, SMALL, hours=1.5)
    )
    assert bare.failed > FLEET
    assert bare.peak_10 > 2 * SMALL.rate
    assert narrow.failed > FLEET
    assert narrow.queue > 5.0
    assert in_step.waves.are_there
    assert not in_step.keeps_promise(SMALL.rate)


def test_whoever_is_not_answered_in_time_comes_again() -> None:
    """A cycle's time is bounded, and what the service does for it afterwards is in vain."""
    fleet = Fleet(20, 9, Pace(), cycle=5.0)
    slow = Simulation(fleet, Events(boot=0.0), Capacity(100.0), Capacity(2.0), 600.0).run()
    assert slow.failed > 0
    assert sum(slow.barbican.load) > 20 * 9
    patient = Simulation(
        Fleet(20, 9, Pace(), cycle=300.0), Events(boot=0.0), Capacity(100.0), Capacity(2.0), 600.0
    ).run()
    assert (patient.failed, patient.unserved) == (0, 0)
    assert max(patient.served) == pytest.approx(90.0, abs=3.0)


COSTS = {
    "quiet look": Cost(1, 10, 16, 3, 1),
    "daily look": Cost(8, 25, 16, 3, 1),
    "rotation": Cost(14, 50, 35, 13, 5),
    "arrival look": Cost(1, 10, 16, 3, 1),
    "clean-up": Cost(10, 30, 19, 6, 2),
}


def followed(day: deployer.Day, sample: int = 400) -> deployer.Seen:
    """Follow 100,000 VPSs by a sample."""
    return deployer.follow(day, COSTS, 100_000, sample)


def test_a_usual_day_of_the_deployer_is_even() -> None:
    """Each VPS is looked at every hour, each secret rotates in its period, and no hour stands out."""
    seen = followed(deployer.Day("", "", 2))
    rotations = sum(1 / days for days in deployer.PERIODS_DAYS)
    assert seen.acts["rotation"] == pytest.approx(2 * 100_000 * rotations, rel=0.25)
    assert seen.acts["quiet look"] + seen.acts["daily look"] == pytest.approx(2 * 24 * 100_000, rel=0.03)
    assert seen.acts["daily look"] == pytest.approx(2 * 100_000, rel=0.05)
    assert seen.acts["clean-up"] < seen.acts["rotation"]
    assert seen.late == 0
    calls = [sum(hour.values()) for hour in deployer.hourly(seen, COSTS)]
    mean = deployer.usual_calls_s(COSTS, 100_000)
    assert all(0.7 * mean < one < 1.3 * mean for one in calls[1:])
    assert seen.of(COSTS, "rows") > 3 * 2 * 24 * 100_000


def test_daily_looks_in_one_hour_would_be_an_overload() -> None:
    """The measure can fail: so it was before each VPS had an hour of its own."""
    at_midnight = followed(deployer.Day("", "", 2, daily_at_midnight=True))
    assert at_midnight.longest_wait > 3600
    assert followed(deployer.Day("", "", 2)).longest_wait < 600


def test_a_day_without_barbican_makes_nothing_late() -> None:
    """The lead of a secret on 30 days is three days; all is caught up within hours, at the bucket's rate."""
    seen = followed(deployer.Day("", "", 4, away=(DAY_S, 2 * DAY_S)), 3000)
    assert seen.late == 0
    assert 0 < seen.caught_up < 12 * 3600
    calls = [sum(hour.values()) for hour in deployer.hourly(seen, COSTS)]
    assert calls[25:47] == [0] * 22
    assert max(calls) <= 1.01 * deployer.RESERVE * deployer.usual_calls_s(COSTS, 100_000)


def test_what_was_measured_of_the_deployer_makes_its_days() -> None:
    """lab/fleet/deployer.json is what ``make bench-deployer WRITE=1`` writes."""
    costs = acts.kept()
    assert set(deployer.ACTS) < set(costs)
    day = deployer.DAYS[0]
    told = deployer.line(day, deployer.follow(day, costs, 1000, 50), costs)
    assert told.startswith(day.name)
