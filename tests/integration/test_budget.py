"""A budget of calls in the real daemon: polls are put off and it says so; nothing else is."""

from __future__ import annotations

import signal
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from agent.core.errors import Failure, Fault, Step
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration
from tests.integration.test_cli import run

if TYPE_CHECKING:
    from pathlib import Path

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
POLLS = '[rotation]\npoll_interval = "1s"\n[staleness]\nfresh_for = "1500ms"\n'
BUDGET = "[budget]\ncalls_per_month = 31\n"
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
EARLY = datetime(2026, 1, 1, 12, tzinfo=AMSTERDAM).timestamp()
"""With the whole month before it: nearly all of the 31 calls are left."""
DAYS = {
    "the last day of a month": datetime(2026, 4, 30, 12, tzinfo=AMSTERDAM),
    "the last day of a year": datetime(2026, 12, 31, 12, tzinfo=AMSTERDAM),
    "29 February": datetime(2028, 2, 29, 12, tzinfo=AMSTERDAM),
    "an hour before summer time": datetime(2026, 3, 29, 1, tzinfo=AMSTERDAM),
    "an hour before winter time": datetime(2026, 10, 25, 1, tzinfo=AMSTERDAM),
    "a second before midnight UTC": datetime(2026, 6, 15, 23, 59, 59, tzinfo=ZoneInfo("UTC")),
    "a second before the next month": datetime(2026, 11, 30, 23, 59, 59, tzinfo=ZoneInfo("UTC")),
}
DOWN = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "it may be overloaded", 503)


def test_a_poll_is_put_off_and_nothing_else() -> None:
    """It is told in the journal, in status and by the command; a refresh acts at once; nothing is stale."""
    world = World()
    world.put("A", b"canary-one")

    def configure(directory: Path) -> str:
        return fake_configuration(directory, world, POLLS + BUDGET + GRANT)[1]

    with Agent(configure, wall=EARLY) as agent:
        agent.start().until_ready()
        status = agent.status()
        budget = status["budget"]
        assert status["nextAttemptIn"] > 2  # anywhere within nearly a day, after a start
        assert budget["pollInterval"] > 60_000
        assert budget["freshFor"] == 2 * budget["pollInterval"]
        assert budget["callsPerMonth"] == 31
        assert budget["projectedCalls"] <= 32
        assert budget["stretched"].startswith("poll interval stretched from 1 s to 2")
        assert "calls_per_month 31" in budget["stretched"]
        assert "warning: poll interval stretched from 1 s to" in agent.log
        told = run("status", sockets=agent.directory).stdout
        assert "1 of 31 this month, counted since " in told
        assert "poll interval stretched from 1 s" in told

        world.rotate("A", b"canary-two")
        assert agent.ask_control("/v1/refresh", "POST").json["changed"] == ["A"]
        agent.until(lambda: agent.status()["confirmedAge"] > 1.5)  # which is fresh_for
        read = agent.get("/v1/secrets/A")
        assert read.body == b"canary-two"
        assert "secrets-stale" not in read.headers
        assert agent.status()["state"] == "ready"

        cycles = agent.status()["cycles"]["total"]
        agent.write(agent.configuration.read_text().replace(BUDGET, ""))
        agent.ask_control("/v1/refresh", "POST")
        assert agent.status()["cycles"]["total"] == cycles + 1
        agent.signal(signal.SIGHUP)
        agent.until(lambda: agent.status()["cycles"]["total"] > cycles + 3)
        assert "info: poll interval is stretched no more: 1 s" in agent.log
        assert agent.status()["budget"]["stretched"] is None
        assert agent.log.count("poll interval") == 2
        assert ("canary" in agent.log) is False


def test_a_secret_that_expires_is_asked_for_at_its_time() -> None:
    """Whatever the budget says."""
    world = World()
    version = world.put("A", b"canary")
    world.expires[version] = EARLY + 600
    with Agent(lambda path: fake_configuration(path, world, POLLS + BUDGET + GRANT)[1], wall=EARLY) as agent:
        agent.start().until_ready()
        assert agent.status()["nextAttemptIn"] < 603
        assert agent.status()["budget"]["pollInterval"] > 60_000


def test_a_rotation_under_way_is_followed() -> None:
    """Every two seconds, until it is whole."""
    world = World()
    world.put("A", b"canary-one")
    with Agent(lambda path: fake_configuration(path, world, POLLS + BUDGET + GRANT)[1], wall=EARLY) as agent:
        agent.start().until_ready()
        world.put("A", b"canary-two")
        agent.ask_control("/v1/refresh", "POST")
        world.entries = world.entries[1:]
        agent.until(lambda: agent.get("/v1/secrets/A").body == b"canary-two")


def test_retries_are_put_off_no_further_than_an_hour() -> None:
    """The first come soon; calls that failed count."""
    world = World()
    world.put("A", b"canary")
    with Agent(lambda path: fake_configuration(path, world, POLLS + BUDGET + GRANT)[1], wall=EARLY) as agent:
        agent.start().until_ready()
        world.failure = DOWN
        agent.ask_control("/v1/refresh", "POST")
        assert agent.status()["nextAttemptIn"] < 4
        agent.until(lambda: agent.status()["cycles"]["failed"] >= 3)
        status = agent.status()
        assert status["budget"]["calls"] == status["cycles"]["total"]
        assert not [text for text in status["warnings"] if "used up" in text]
        world.failure = None
        world.calls = 40
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
        assert [text for text in agent.status()["warnings"] if "calls_per_month 31 is used up" in text]
        assert agent.get("/v1/secrets/A").status == 200


@pytest.mark.parametrize("day", DAYS.values(), ids=DAYS.keys())
def test_what_a_budget_promises_holds_on_any_day(day: datetime) -> None:
    """Values are served, a refresh acts at once, and no poll is put off beyond a day and its jitter."""
    world = World()
    world.put("A", b"canary-one")
    wall = day.timestamp()
    with Agent(lambda path: fake_configuration(path, world, POLLS + BUDGET + GRANT)[1], wall=wall) as agent:
        agent.start().until_ready()
        budget = agent.status()["budget"]
        assert 1 <= budget["pollInterval"] <= 86_400
        assert budget["freshFor"] >= 2 * budget["pollInterval"]
        world.rotate("A", b"canary-two")
        assert agent.ask_control("/v1/refresh", "POST").json["changed"] == ["A"]
        assert agent.get("/v1/secrets/A").body == b"canary-two"
        assert agent.status()["state"] == "ready"
        assert 0 <= agent.status()["nextAttemptIn"] <= 2 * 86_400
