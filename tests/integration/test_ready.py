"""One definition of ready, on every surface: app socket, command, metric, status, manifest."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

import pytest

from agent.cli import setup
from agent.cli.http import ask
from agent.core.errors import Failure, Fault, Step
from agent.core.rotation import Unread
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration
from tests.integration.test_cli import run

if TYPE_CHECKING:
    from pathlib import Path

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'
DENIED = Failure(Step.PERMISSION, Fault.DENIED, "to read the container", "restore the ACL", 403)
AWAY = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "wait", 503)


def agent_of(world: World, extra: str = GRANT) -> Agent:
    """Return an agent over a fake fetch program."""

    def configure(directory: Path) -> str:
        return fake_configuration(directory, world, extra)[1]

    return Agent(configure)


def ready_on(agent: Agent) -> dict[str, bool]:
    """Return what each surface says."""
    metric = agent.ask_control("/metrics").body.decode()
    return {
        "health": agent.get("/v1/health/ready").status == 200,
        "metric": "vps_secrets_ready 1\n" in metric,
        "wait": run("wait", "--timeout", "0", sockets=agent.directory).returncode == 0,
        "status": agent.status()["state"] in {"ready", "stale"},
        "reason": agent.status()["notReady"] is None,
        "manifest": agent.ask_control("/v1/manifest").status == 200,
    }


def setup_says(agent: Agent) -> tuple[int, str]:
    """Return what ``vps-secrets setup`` makes of the status, at its end."""
    answer = ask(str(agent.control), "GET", "/v1/status")
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = setup._told(answer.content)
    return code, output.getvalue()


def read_once(agent: Agent) -> None:
    """Start the agent and wait for the end of its first reading."""
    agent.start()
    agent.until(lambda: agent.status()["cycles"]["total"] > 0)


def test_a_refresh_that_finds_nothing_to_serve_is_no_success() -> None:
    """The reading went well; there is nothing all the same, and the command says so by its exit status."""
    world = World()
    version = world.put("A", b"canary")
    world.unread[version] = Unread.DENIED
    with agent_of(world) as agent:
        read_once(agent)
        refreshed = run("refresh", sockets=agent.directory)
        assert refreshed.returncode == 1
        assert "not ready: no value is held" in refreshed.stdout
        assert "without a value: A" in refreshed.stdout


def test_what_was_dropped_though_it_is_listed_is_named() -> None:
    """By its own max_stale; the others are served on."""
    world = World()
    world.put("A", b"canary")
    world.put("B", b"canary")
    stale = (
        '[rotation]\npoll_interval = "1s"\n[staleness]\nfresh_for = "1500ms"\n[staleness.secrets]\nB = "2s"\n'
    )
    with agent_of(world, stale + GRANT) as agent:
        agent.start().until_ready()
        world.failure = AWAY
        agent.until(lambda: agent.get("/v1/secrets/B").status == 404)
        for target in ("/v1/health/ready", "/v1/bundle", "/v1/secrets"):
            assert agent.get(target).json["pending"] == ["B"]
        assert agent.status()["pending"] == ["B"]
        world.failure = None
        agent.until(lambda: agent.get("/v1/secrets/B").status == 200)
        assert agent.get("/v1/bundle").json["pending"] == []


def none_of(surfaces: dict[str, bool]) -> bool:
    """Return whether every surface says no."""
    return set(surfaces.values()) == {False}


@pytest.mark.parametrize("why", [Unread.DENIED, Unread.FAILED, Unread.ABSENT])
def test_every_payload_refused_is_not_ready(why: Unread) -> None:
    """The container was read well, and there is nothing to serve."""
    world = World()
    version = world.put("A", b"canary")
    world.unread[version] = why
    with agent_of(world) as agent:
        read_once(agent)
        assert none_of(ready_on(agent))
        assert agent.get("/v1/health/ready").json["detail"].startswith("no value is held: 1 listed")
        assert agent.get("/v1/bundle").problem == "not-ready"
        assert agent.get("/v1/secrets").problem == "not-ready"
        assert agent.get("/v1/secrets/A").problem == "secret-unavailable"
        assert agent.status()["pending"] == ["A"]
        del world.unread[version]
        agent.ask_control("/v1/refresh", "POST")
        assert all(ready_on(agent).values())


def test_a_container_of_another_vps_is_not_ready() -> None:
    """A mistyped VPS id: the container answers, and lists nothing of this VPS."""
    world = World(rejected=("vps-prod-002/A", "vps-prod-002/B"))
    with agent_of(world) as agent:
        read_once(agent)
        assert none_of(ready_on(agent))
        assert "check vps_id and container" in agent.get("/v1/health/ready").json["detail"]
        assert agent.get("/v1/bundle").status == 503


def test_an_empty_container_is_not_ready() -> None:
    """Nothing was made for this VPS yet, or all of it is gone."""
    with agent_of(World()) as agent:
        read_once(agent)
        assert none_of(ready_on(agent))
        assert agent.get("/v1/bundle").status == 503
        code, text = setup_says(agent)
        assert code == 1
        assert "first reading  not ready: no value is held: the container lists no secret of this VPS" in text
        assert "check --vps-id" in text
        assert "not ready:    no value is held" in run("status", sockets=agent.directory).stdout


def test_access_taken_away_is_not_ready_within_the_grace_nor_after_it() -> None:
    """Values are served on for the grace; nobody new may rely on them."""
    world = World()
    world.put("A", b"canary")
    with agent_of(world, '[staleness]\nrevocation_grace = "3s"\n' + GRANT) as agent:
        agent.start().until_ready()
        world.failure = DENIED
        assert agent.ask_control("/v1/refresh", "POST").status == 502
        if agent.get("/v1/secrets/A").status == 200:  # else three seconds have passed already
            assert none_of(ready_on(agent))
        agent.until(lambda: agent.get("/v1/secrets/A").status == 404)
        assert none_of(ready_on(agent))
        assert "access to the secrets is taken away" in agent.get("/v1/health/ready").json["detail"]
        assert agent.get("/v1/bundle").problem == "not-ready"


def test_a_cloud_that_is_away_does_not_make_the_agent_unready() -> None:
    """What was read is served: that is what the agent is for."""
    world = World()
    world.put("A", b"canary")
    with agent_of(world) as agent:
        agent.start().until_ready()
        assert setup_says(agent) == (0, "first reading  1 secrets: A\n")
        assert "not ready" not in run("status", sockets=agent.directory).stdout
        world.failure = AWAY
        agent.ask_control("/v1/refresh", "POST")
        assert all(ready_on(agent).values())


def test_what_is_pending_is_named_to_those_who_may_read_it() -> None:
    """An application that needs the others goes on; whoever needs all of them can see what is missing."""
    world = World()
    world.put("A", b"canary")
    world.unread[world.put("B", b"canary")] = Unread.FAILED
    with agent_of(world) as agent:
        read_once(agent)
        assert all(ready_on(agent).values())
        for target in ("/v1/health/ready", "/v1/bundle", "/v1/secrets"):
            assert agent.get(target).json["pending"] == ["B"]
        etag = agent.get("/v1/bundle").headers["etag"]
        assert "B" in run("wait", "--timeout", "0", sockets=agent.directory).stdout
        world.unread.clear()
        agent.ask_control("/v1/refresh", "POST")
        bundle = agent.get("/v1/bundle", headers={"If-None-Match": etag})
        assert (bundle.status, bundle.json["pending"]) == (200, [])
    with agent_of(world, '[[grant]]\nuser = "root"\nsecrets = ["A"]\n') as agent:
        world.unread[world.rotate("B", b"canary")] = Unread.FAILED
        read_once(agent)
        assert agent.get("/v1/health/ready").json["pending"] == []
        assert agent.get("/v1/bundle").json["pending"] == []
