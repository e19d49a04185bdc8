"""serve has what it serves acknowledged: when it asks, how often, and what it tells of it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from common.acknowledgement import served_digest
from common.names import SecretName, Version
from lab.testbed.fakes.fetch_server import FetchServer, World
from lab.testbed.running import Agent, fake_configuration
from tests.integration.unit import Unit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
REFUSED = "what is served is not acknowledged: HTTP 401"


class Acknowledging:
    """An agent that acknowledges to a container whose state is ``world``."""

    def __init__(self, kind: type[Agent] = Agent, extra: str = "acknowledge = true\n") -> None:
        self.world = World()
        self.world.put("A", b"1")
        self.world.put("B", b"1")
        self.server: FetchServer | None = None
        self.extra = extra
        self._text = ""
        self.agent = kind(self.configuration)

    def configuration(self, directory: Path) -> str:
        """Return its configuration; the fetch program is made once."""
        if self.server is None:
            self.server, self._text = fake_configuration(directory, self.world, GRANT)
        return self._text.replace("[fetch]\n", f"[fetch]\n{self.extra}")

    @property
    def asked(self) -> list[str | None]:
        """What each cycle so far was to acknowledge."""
        assert self.server is not None
        return [request.serves for request in self.server.requests]

    @property
    def digest(self) -> str:
        """The digest of what Barbican lists."""
        return served_digest({SecretName(name): Version(version) for name, version in self.world.entries})

    def status(self) -> Any:
        """Return what the status document says of it."""
        return self.agent.status()["acknowledged"]

    def until_current(self) -> None:
        """Wait until what is served is acknowledged."""
        self.agent.until(lambda: bool(self.status()["current"]))

    def refresh(self) -> None:
        """Have Barbican read."""
        self.agent.until(lambda: self.agent.ask_control("/v1/refresh", "POST").status == 200)

    def metric(self) -> str:
        """Return the metric, or nothing."""
        lines = self.agent.ask_control("/metrics").body.decode().splitlines()
        return "".join(
            line.partition(" ")[2] for line in lines if line.startswith("vps_secrets_acknowledged ")
        )


@pytest.fixture
def one() -> Iterator[Acknowledging]:
    """An agent that has read, and acknowledged."""
    made = Acknowledging()
    with made.agent:
        made.agent.start().until_ready()
        made.until_current()
        yield made


def test_it_is_done_soon_after_publishing(one: Acknowledging) -> None:
    """The next poll is a day away: a cycle follows that has nothing else to do, and one only."""
    first = one.digest
    assert one.asked == [None, first]
    before = one.status()
    assert before["generation"] == one.agent.generation
    one.refresh()
    one.world.rotate("A", b"2")
    one.refresh()
    one.until_current()
    assert one.asked[2:] == [first, first, one.digest]
    after = one.status()
    assert after["generation"] == one.agent.generation > before["generation"]
    assert after["at"] >= before["at"]
    assert one.agent.status()["nextAttemptIn"] > 60
    assert one.agent.log.count("is acknowledged") == 2
    assert one.metric() == "1"


def test_a_refusal_is_a_warning_and_one_line(one: Acknowledging) -> None:
    """One try, then again with the next cycle; what is served is served."""
    one.world.acknowledge_problem = REFUSED
    one.world.rotate("A", b"2")
    one.refresh()
    one.agent.until(lambda: one.digest in one.asked)
    assert REFUSED in one.agent.status()["warnings"]
    cycles = len(one.asked)
    assert one.agent.get("/v1/secrets/A").body == b"2"
    assert (one.status()["problem"], one.status()["current"], one.metric()) == (REFUSED, False, "0")
    one.agent.until(lambda: one.agent.status()["nextAttemptIn"] > 60)  # it is not tried before its time
    for _ in range(2):
        one.refresh()
    assert one.asked[cycles:] == [one.digest] * 2
    assert one.agent.log.count(REFUSED) == 1
    one.world.acknowledge_problem = ""
    one.refresh()
    assert one.status()["current"]
    assert REFUSED not in one.agent.status()["warnings"]


def test_one_that_somebody_has_removed_comes_back(one: Acknowledging) -> None:
    """With the next cycle; and where that is refused, nothing is said to be acknowledged."""
    one.world.acknowledge_problem = REFUSED
    one.world.forget()
    one.refresh()
    assert (one.status()["current"], one.status()["generation"], one.status()["at"]) == (False, None, None)
    one.world.acknowledge_problem = ""
    one.refresh()
    assert one.world.acknowledged == (one.digest,)
    assert one.status()["current"]


@pytest.mark.slow
def test_a_drop_is_acknowledged_too(one: Acknowledging) -> None:
    """A name that is gone for good, which takes two readings half a minute apart."""
    first = one.digest
    one.world.entries.pop()
    one.refresh()
    one.agent.until(lambda: one.world.acknowledged == (one.digest,), 90)
    assert one.digest != first
    one.until_current()


def test_a_restart_that_changes_nothing_asks_for_nothing_more() -> None:
    """Kept by systemd: the first cycle says what is served, and it is listed already."""
    made = Acknowledging(Unit)
    with made.agent as unit:
        for starts in (1, 2):
            unit.start()
            # whoever asks before does not read what systemd would: the agent waits for it to take its memory
            unit.until(lambda starts=starts: unit.log.count("serving vps-prod-001") == starts)  # type: ignore[misc]  # bound in the loop
            unit.until_ready()
            made.until_current()
            assert unit.status()["memory"]["kept"]
            if starts == 1:
                assert unit.stop() == 0
        assert made.asked == [None, made.digest, made.digest]
        assert unit.status()["nextAttemptIn"] > 60


def test_a_cold_start_that_changes_nothing_asks_for_nothing_more(one: Acknowledging) -> None:
    """Nothing is kept: what it has read is listed as served already, so no cycle follows."""
    assert one.server is not None
    assert one.agent.stop() == 0
    one.server.requests.clear()
    one.agent.start().until_ready()
    one.until_current()
    assert one.asked == [None]
    assert one.agent.status()["nextAttemptIn"] > 60


def test_what_a_killed_fetch_has_left_goes_in_a_cycle_of_its_own() -> None:
    """Two are listed at a start, whose reading does not know yet what will be served."""
    made = Acknowledging()
    made.world.acknowledged = ("0" * 64, made.digest)
    with made.agent as agent:
        agent.start().until_ready()
        agent.until(lambda: made.world.acknowledged == (made.digest,))
        assert made.asked == [None, made.digest]


def test_off_it_asks_for_nothing_and_a_reload_turns_it_on() -> None:
    """And off again, which leaves what is said as it is."""
    made = Acknowledging(extra="")
    with made.agent as agent:
        agent.start().until_ready()
        made.refresh()
        assert (made.asked, made.status(), made.metric()) == ([None, None], None, "")
        for extra, told in (("acknowledge = true\n", True), ("acknowledge = false\n", False)):
            made.extra, cycles = extra, len(made.asked)
            agent.write(made.configuration(agent.directory))
            agent.signal(signal.SIGHUP)
            agent.until(lambda cycles=cycles: len(made.asked) > cycles)  # type: ignore[misc]  # bound in the loop
            agent.until(lambda told=told: (made.status() is not None) is told)  # type: ignore[misc]  # as above
            assert made.asked[cycles:] == [made.digest if told else None]
        assert made.world.acknowledged == (made.digest,)
