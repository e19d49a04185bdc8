"""The watch over the beacon as serve keeps it: polls that it causes, and everything that it may not do."""

from __future__ import annotations

import hashlib
import re
import secrets
import signal
import time
from typing import TYPE_CHECKING

import pytest

from agent.core import wire_watch
from agent.core.errors import Failure, Fault, Step
from agent.core.wire_watch import Watch, WatchResult
from agent.serve.sync.beacon_watch import BURST, REFILL_S
from deployer.cloud.beacon import touch_file
from deployer.cloud.secrets import Deployment
from lab.testbed.fakes.fetch_server import World
from lab.testbed.fakes.nginx import Nginx
from lab.testbed.running import Agent, fake_configuration
from tests.integration.test_cli import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.testbed.cloud import Cloud
    from lab.testbed.fakes.fetch_server import FetchServer

CANARY = secrets.token_hex(16)
GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
BEACON = f'[beacon]\nurl = "https://b.example/fleet?sig={CANARY}"\ninterval = "1s"\n'
GONE = Failure(Step.BEACON, Fault.TRANSIENT, "look at the beacon", "there is no such object", 404)


class Sky:
    """What a fetch process would see, and how it replies."""

    def __init__(self) -> None:
        self.seen = "one"
        self.failure: Failure | None = None
        self.forge: Callable[[Watch], bytes] | None = None

    def reply(self, watch: Watch) -> bytes | None:
        """Reply as the real program does: at once where there is something to tell, else never."""
        if self.forge is not None:
            return self.forge(watch)
        seen = "sha256:" + hashlib.sha256(self.seen.encode()).hexdigest()
        if self.failure is not None:
            return wire_watch.encode_sight(WatchResult(watch.nonce, None, self.failure, 1, 0))
        if watch.lifetime and watch.seen == seen:
            return None
        return wire_watch.encode_sight(WatchResult(watch.nonce, seen, None, 1, 0))


class Running:
    """An agent with a fake fetch program, and what it is told."""

    def __init__(self, extra: str = BEACON) -> None:
        self.world = World()
        self.world.put("A", b"a")
        self.sky = Sky()
        self.fetch: FetchServer
        self.agent = Agent(lambda directory: self._configuration(directory, extra))

    def _configuration(self, directory: object, extra: str) -> str:
        self.fetch, text = fake_configuration(directory, self.world, extra + GRANT)  # type: ignore[arg-type]  # Agent's own
        self.fetch.watch = self.sky.reply
        return text

    def status(self) -> dict[str, object]:
        """Return what status says about the beacon."""
        found: dict[str, object] = self.agent.status()["beacon"]
        return found

    def events(self, name: str) -> int:
        """Return how often something has happened."""
        return int(self.agent.status()["beacon"]["events"].get(name, 0))

    def until_state(self, state: str) -> None:
        """Wait for a state."""
        self.agent.until(lambda: self.status()["state"] == state)


@pytest.fixture
def running() -> Iterator[Running]:
    """An agent that watches."""
    made = Running()
    with made.agent:
        made.agent.start().until_ready()
        made.until_state("watching")
        yield made


def test_the_first_sight_is_no_change_but_one_poll(running: Running) -> None:
    """A touch may have come between the first reading and the first look; then it is quiet."""
    running.agent.until(lambda: running.events("poll") == 1)
    running.agent.until(lambda: len(running.fetch.requests) == 2)
    running.agent.until(lambda: len(running.fetch.watches) == 2)
    first, second = running.fetch.watches
    assert (first.seen, first.lifetime, first.token_state) == (None, 0.0, b"")
    assert second.seen is not None
    assert 3200 <= second.lifetime <= 4000
    assert running.events("change") == 0
    status = running.status()
    assert status["url"] == "https://b.example/fleet?…"
    assert status["lastChange"] is None
    assert status["failure"] is None
    metrics = running.agent.ask_control("/metrics").body.decode()
    assert "vps_secrets_beacon_watching 1" in metrics
    assert 'vps_secrets_beacon_events_total{event="poll"} 1' in metrics


def test_a_touch_is_told_to_the_application(running: Running) -> None:
    """By the poll that it causes; the signature of the URL is in no log and no status."""
    running.agent.until(lambda: len(running.fetch.watches) == 2)
    first = running.agent.generation
    running.world.rotate("A", b"b")
    running.sky.seen = "two"
    assert running.agent.get(f"/v1/watch?after={first}&timeout=20").json["changed"] == ["A"]
    running.agent.until(lambda: running.events("change") == 1)
    assert running.agent.stop() == 0
    assert CANARY not in running.agent.log


def test_a_flapping_beacon_causes_so_many_polls_and_no_more(running: Running) -> None:
    """The bucket's; what is too much is put off to one poll later, and told."""

    def flap(watch: Watch) -> bytes:
        seen = "sha256:" + hashlib.sha256(watch.nonce.encode()).hexdigest()
        return wire_watch.encode_sight(WatchResult(watch.nonce, seen, None, 1, 0))

    running.agent.until(lambda: len(running.fetch.watches) == 2)
    running.sky.forge = flap
    running.agent.until(lambda: running.events("change") >= BURST + 3, 60)
    polls, postponed = running.events("poll"), running.events("postponed")
    assert (polls, postponed) == (BURST, 1)
    assert len(running.fetch.requests) == 1 + BURST
    poll_in = running.status()["pollIn"]
    assert isinstance(poll_in, float)
    assert REFILL_S - 120 < poll_in <= REFILL_S
    assert running.agent.journal.count("changes too often") == 1
    assert running.agent.get("/v1/secrets/A").status == 200


def _nonsense(_: Watch) -> bytes:
    return b"x" * 100


def _of_another(watch: Watch) -> bytes:
    return wire_watch.encode_sight(WatchResult("f" * 32, watch.seen or "sha256:" + "0" * 64, None, 1, 0))


def _silent(_: Watch) -> bytes:
    return b""


@pytest.mark.parametrize("forge", [None, _nonsense, _of_another, _silent])
def test_a_failure_touches_nothing_and_is_told_once(
    running: Running, forge: Callable[[Watch], bytes] | None
) -> None:
    """Whether the beacon is away or the process that looks is broken: one warning, one word at its end."""
    running.agent.until(lambda: running.events("poll") == 1)
    running.agent.until(lambda: len(running.fetch.requests) == 2)
    running.sky.forge, running.sky.failure = forge, GONE
    running.until_state("failing")
    running.agent.until(lambda: running.status()["failuresInARow"] == 3, 60)
    status = running.status()
    assert isinstance(status["failure"], dict)
    assert status["failure"]["status"] == (None if forge else 404)
    assert isinstance(status["nextLookIn"], float)
    whole = running.agent.status()
    assert (whole["state"], whole["failure"]) == ("ready", None)
    assert "secrets-stale" not in running.agent.get("/v1/secrets/A").headers
    assert running.agent.get("/v1/health/ready").status == 200
    assert running.agent.journal.count("nothing that is served depends on it") == 1
    running.sky.forge = running.sky.failure = None
    running.sky.seen = "changed meanwhile"
    before = running.events("poll")
    running.until_state("watching")
    assert running.agent.journal.count("the beacon is seen again") == 1
    running.agent.until(lambda: running.events("poll") == before + 1)


def test_the_next_look_obeys_a_retry_after(running: Running) -> None:
    """Of the beacon's server."""
    shown = run("status", sockets=running.agent.directory).stdout
    assert "watching https://b.example/fleet?…" in shown
    running.sky.failure = Failure(Step.BEACON, Fault.TRANSIENT, "look", "away", 503, 1800.0)
    running.until_state("failing")
    next_look = running.status()["nextLookIn"]
    assert isinstance(next_look, float)
    assert next_look > 1700
    shown = run("status", sockets=running.agent.directory).stdout
    assert re.search(r"beacon +failing .*; beacon failed \(HTTP 503\): away; next look in \d+ min", shown)


def test_a_change_obeys_a_retry_after_of_barbican(running: Running) -> None:
    """Whoever touches the beacon can't make the agent press a service that asked for patience."""
    running.agent.until(lambda: len(running.fetch.requests) == 2)
    running.world.failure = Failure(Step.BARBICAN, Fault.TRANSIENT, "read", "busy", 429, 3000.0)
    running.agent.until(lambda: running.agent.ask_control("/v1/refresh", "POST").status == 502)
    asked = len(running.fetch.requests)
    running.sky.seen = "two"
    running.agent.until(lambda: running.events("poll") == 2)
    assert running.agent.status()["nextAttemptIn"] > 2000
    assert len(running.fetch.requests) == asked


def test_a_reload_takes_it_away_and_brings_it_back(running: Running) -> None:
    """The process that looks is left at once; another URL begins anew."""
    running.agent.until(lambda: len(running.fetch.watches) == 2)
    text = running.agent.configuration.read_text()
    running.agent.write(text.replace(BEACON, ""))
    running.agent.signal(signal.SIGHUP)
    running.agent.until(lambda: running.agent.status()["beacon"] is None)
    running.agent.until(lambda: running.fetch.left == 1)
    running.agent.write(text)
    running.agent.signal(signal.SIGHUP)
    running.agent.until(lambda: len(running.fetch.watches) == 4)
    assert running.fetch.watches[2].seen == running.fetch.watches[1].seen
    running.agent.write(text.replace("/fleet", "/other"))
    running.agent.signal(signal.SIGHUP)
    running.agent.until(lambda: len(running.fetch.watches) == 6)
    assert running.fetch.watches[4].seen is None
    assert running.events("change") == 0


def test_it_stops_while_a_process_looks(running: Running) -> None:
    """And leaves it."""
    running.agent.until(lambda: len(running.fetch.watches) == 2)
    assert running.agent.stop() == 0
    end = time.monotonic() + 20
    while running.fetch.left != 1:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_poll_that_has_come_anyway_is_not_made_twice() -> None:
    """With a spread the poll comes later; a reading that has begun since the change will do."""
    running = Running(BEACON + 'spread = "1h"\n')
    with running.agent:
        running.agent.start().until_ready()
        running.until_state("watching")
        planned = running.status()["pollIn"]
        assert isinstance(planned, float)
        running.sky.seen = "two"
        running.agent.until(lambda: running.events("change") == 1)
        later = running.status()["pollIn"]
        assert isinstance(later, float)
        assert later < planned, "the one that was planned comes after this change too"
        assert running.events("poll") == 0


def test_without_a_beacon_nothing_looks() -> None:
    """The default: no process, no member, no metric that says otherwise."""
    running = Running("")
    with running.agent:
        running.agent.start().until_ready()
        assert running.agent.status()["beacon"] is None
        assert b"vps_secrets_beacon_watching" not in running.agent.ask_control("/metrics").body
        assert running.agent.ask_control("/v1/refresh", "POST").status == 200
        assert running.fetch.watches == []


def test_from_a_touch_on_nginx_to_the_application(cloud: Cloud) -> None:
    """Real Keystone, Barbican, nginx, fetch: the deployment rotates and touches, the application is told."""
    vps = cloud.vps("vps-beacon-001", {"A": b"a-value"})
    with Nginx() as nginx:
        touch_file(nginx.file)
        extra = (
            f'[beacon]\nurl = "{nginx.url}?sig={CANARY}"\ninterval = "1s"\n[log]\nlevel = "debug"\n{GRANT}'
        )
        deployment = Deployment(
            cloud.deployment._session,
            cloud.testbed.places.barbican_url,
            touch=lambda: touch_file(nginx.file),
        )
        with Agent(lambda directory: cloud.configuration(vps, directory, extra)) as agent:
            agent.start().until_ready()
            agent.until(lambda: agent.status()["beacon"]["state"] == "watching")
            generation = agent.generation
            for _ in range(2):
                agent.until(lambda: nginx.log.read_text().count(" 304 ") >= 2)
                deployment.rotate(vps, {"A": secrets.token_bytes(20)})
                told = agent.get(f"/v1/watch?after={generation}&timeout=60").json
                assert (told["changed"], told["generation"] > generation) == (["A"], True)
                generation = told["generation"]
            assert agent.stop() == 0
            assert CANARY not in agent.log
