"""The control socket of the real daemon: for root and the administrators' group, never a value."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Failure, Fault, Step
from lab.testbed.fakes.fetch_server import CALLS, World
from lab.testbed.running import Agent, Caller, ask, fake_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRANTS = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n[[grant]]\ngroup = "games"\nsecrets = ["GAME*"]\n'
DOWN = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "it may be overloaded", 503, 7.0)


class Running:
    """An agent and its world."""

    def __init__(self) -> None:
        self.world = World()
        for name in ("A", "GAME1"):
            self.world.put(name, b"canary-value")
        self.agent = Agent(lambda directory: fake_configuration(directory, self.world, GRANTS)[1])


@pytest.fixture
def running() -> Iterator[Running]:
    """A running agent."""
    made = Running()
    with made.agent:
        made.agent.start().until_ready()
        yield made
        assert ("canary-value" in made.agent.log) is False


def test_the_status_tells_everything_but_values(running: Running) -> None:
    """State, versions, ages, cycles, grants, memory."""
    response = running.agent.ask_control("/v1/status")
    status = response.json
    assert (b"canary-value" in response.body) is False
    assert (status["state"], status["vpsId"]) == ("ready", "vps-prod-001")
    assert [secret["name"] for secret in status["secrets"]] == ["A", "GAME1"]
    assert status["cycles"] | {"lastSeconds": 0, "timings": {}} == {
        "total": 1,
        "failed": 0,
        "inARow": 0,
        "lastSeconds": 0,
        "calls": {"keystone": 0, "barbican": 1},
        "outcomes": CALLS,
        "timings": {},
    }
    assert status["budget"] | {"month": "", "countedSince": "", "wholeMonth": False, "projectedCalls": 0} == {
        "month": "",
        "countedSince": "",
        "wholeMonth": False,
        "calls": 1,
        "callsPerMonth": None,
        "projectedCalls": 0,
        "projectedCost": pytest.approx(0.04 + status["budget"]["projectedCalls"] / 1e5, abs=1e-4),
        "currency": "EUR",
        "pollInterval": 86400.0,
        "freshFor": 172800.0,
        "stretched": None,
    }
    assert 28 <= status["budget"]["projectedCalls"] <= 31 + 1
    assert status["grants"] == ["grant 1 (user root: *)", "grant 2 (group games: GAME*)"]
    assert status["memory"]["kind"] in {"memfd_secret", "memfd"}
    assert status["failure"] is None
    assert 0 < status["nextAttemptIn"] <= 86_400


def test_only_root_and_the_group_may_ask(running: Running) -> None:
    """Twice: by the socket's permissions, and by the door itself."""
    control = running.agent.control
    assert Caller(65534, 65534).ask(control, "/v1/status") == (0, "PermissionError")
    control.chmod(0o666)
    assert Caller(65534, 65534).ask(control, "/v1/status") == (403, "not-admin")
    assert Caller(65534, 65534).ask(control, "/v1/refresh", "POST") == (403, "not-admin")
    assert Caller(65534, 65534, (60,)).ask(control, "/v1/status") == (200, "")


def test_a_refresh_tells_what_changed_and_is_limited(running: Running) -> None:
    """At most one a second starts a cycle."""
    running.world.rotate("A", b"canary-value 2")
    assert running.agent.ask_control("/v1/refresh", "POST").json["changed"] == ["A"]
    second = running.agent.ask_control("/v1/refresh", "POST")
    assert (second.status, second.problem, second.headers["retry-after"]) == (429, "too-many-requests", "1")
    assert running.agent.ask_control("/v1/refresh").status == 405


def test_a_failed_refresh_tells_the_step_and_the_next_attempt(running: Running) -> None:
    """What was held is still served; Retry-After of the service is obeyed."""
    running.world.failure = DOWN
    response = running.agent.ask_control("/v1/refresh", "POST")
    assert (response.status, response.problem) == (502, "refresh-failed")
    assert response.json["failure"] == {
        "step": "Barbican",
        "fault": "transient",
        "status": 503,
        "tried": "to read the container",
        "advice": "it may be overloaded",
        "retryAfter": 7.0,
    }
    assert response.json["nextAttemptIn"] > 6
    assert running.agent.get("/v1/secrets/A").status == 200
    assert running.agent.status()["cycles"]["inARow"] == 1
    assert "next attempt in" in running.agent.log


def test_a_list_that_is_refused_is_told_until_it_is_given() -> None:
    """Each refusal costs calls; cycles that do not ask for the list say nothing about it."""
    world = World(listed=False)
    world.put("A", b"canary-value")

    def configure(directory: Path) -> str:
        text = fake_configuration(directory, world, GRANTS)[1]
        return text.replace("[fetch]\n", "[fetch]\nlist_metadata = true\n")

    def warned(agent: Agent) -> bool:
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
        return any("fetch.list_metadata" in text for text in agent.status()["warnings"])

    with Agent(configure) as agent:
        agent.start().until_ready()
        assert warned(agent)
        world.listed = None
        assert warned(agent)
        world.listed = True
        assert not warned(agent)


def test_explain_says_who_may_read_what_and_why_not(running: Running) -> None:
    """By name or uid, with one line per grant."""
    explain = running.agent.ask_control("/v1/explain?user=nobody&name=A").json
    assert explain["allowed"] is False
    assert explain["lines"] == [
        "grant 1 (user root: *): no, it is for user root",
        "grant 2 (group games: GAME*): no, it is for group games",
    ]
    assert running.agent.ask_control("/v1/explain?user=0&name=A").json["allowed"] is True
    assert running.agent.ask_control("/v1/explain?user=games&name=GAME1").json["allowed"] is True
    absent = running.agent.ask_control("/v1/explain?user=root&name=NO_SUCH").json
    assert absent["lines"][-1].startswith("no secret of this name is held")
    nobody = running.agent.ask_control("/v1/explain?user=no-such&name=A").json
    assert nobody["lines"] == ["there is no such user on this machine"]
    assert running.agent.ask_control("/v1/explain?name=A").problem == "bad-parameter"
    assert running.agent.ask_control("/v1/explain?user=root&name=a/b").problem == "bad-name"


def test_the_manifest_holds_references_only(running: Running) -> None:
    """The JSON that the deployment's database backs up."""
    response = running.agent.ask_control("/v1/manifest")
    version = running.world.entries[0][1]
    assert response.json["vpsId"] == "vps-prod-001"
    assert response.json["secretContainerRef"].startswith("https://barbican.example/v1/containers/")
    assert response.json["secrets"]["A"] == {
        "ref": f"https://barbican.example/v1/secrets/{version}",
        "description": "vps-prod-001/A",
        "created": "2023-11-14T22:13:20Z",
        "expires": None,
    }
    assert (b"canary-value" in response.body) is False


def test_the_metrics_are_in_prometheus_format(running: Running) -> None:
    """Every sample has its help and type; counters count."""
    running.agent.get("/v1/secrets/A")
    running.agent.get("/v1/secrets/NONE")
    text = running.agent.ask_control("/metrics").body.decode()
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples["vps_secrets_ready"] == "1"
    assert samples["vps_secrets_secrets"] == "2"
    assert samples['vps_secrets_requests_total{door="app",outcome="absent"}'] == "1"
    assert samples['vps_secrets_cycles_total{outcome="good"}'] == "1"
    assert samples['vps_secrets_calls_total{service="barbican",outcome="ok"}'] == "1"
    assert samples['vps_secrets_calls_total{service="keystone",outcome="failed"}'] == "0"
    assert (samples["vps_secrets_month_calls"], samples["vps_secrets_month_calls_limit"]) == ("1", "0")
    assert float(samples["vps_secrets_month_cost_projected"]) > 0.04
    assert samples["vps_secrets_poll_interval_seconds"] == "86400"
    for name in samples:
        bare = re.sub(r"\{.*", "", name)
        assert f"# HELP {bare} " in text
        assert f"# TYPE {bare} " in text


@pytest.mark.parametrize("target", ["/v1/secrets", "/v1/secrets/A", "/v1/bundle", "/v1/watch", "/"])
def test_there_is_no_way_to_a_value(running: Running, target: str) -> None:
    """The paths of the app socket do not exist here."""
    assert ask(running.agent.control, "GET", target).problem == "no-such-path"


def test_what_a_cycle_could_not_do_is_a_warning_until_the_next_good_one(running: Running) -> None:
    """Fetch's notices, whatever they are about; a cycle that fails as a whole does not take them back."""

    def refresh(status: int) -> None:
        running.agent.until(lambda: running.agent.ask_control("/v1/refresh", "POST").status == status)

    notice = "vps-prod-001/A was not read: HTTP 206, it answered 206 where only 200 is a success"
    running.world.notices, running.world.rejected = (notice,), ("vps-prod-002/A",)
    refresh(200)
    foreign = "the container lists 'vps-prod-002/A', which is not this VPS's"
    assert [line for line in running.agent.status()["warnings"] if line in {notice, foreign}] == [
        notice,
        foreign,
    ]
    running.world.notices, running.world.rejected, running.world.failure = (), (), DOWN
    refresh(502)
    assert notice in running.agent.status()["warnings"]
    running.world.failure = None
    refresh(200)
    assert notice not in running.agent.status()["warnings"]
