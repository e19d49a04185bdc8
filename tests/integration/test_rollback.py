"""A rollback on the real Keystone and Barbican: a former version is listed again, and the agent follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.testbed.running import Agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.testbed.cloud import Cloud

NEVER = """
[rotation]
poll_interval = "24h"
previous_grace = "1h"
[[grant]]
user = "root"
secrets = ["*"]
"""


def served(agent: Agent, version: str = "") -> dict[str, str]:
    """Return what the application gets of both names."""
    return {name: agent.get(f"/v1/secrets/{name}{version}").body.decode() for name in ("USER", "PASSWORD")}


def test_rotated_rolled_back_and_rotated_again(cloud: Cloud) -> None:
    """Each is a rotation: the generation goes up, the pair is whole, and previous is what went before.

    The values are no secrets: a failure may show them.
    """
    vps = cloud.vps("vps-rollback-001", {"USER": b"1", "PASSWORD": b"1"})
    deployment = cloud.deployment
    first = {entry.name.partition("/")[2]: entry.secret_ref for entry in deployment.entries(vps)}

    def rotate(value: bytes) -> Callable[[], None]:
        return lambda: deployment.rotate(vps, {"USER": value, "PASSWORD": value}, keeps=True)

    with Agent(lambda directory: cloud.configuration(vps, directory, NEVER)) as agent:
        agent.start().until_ready()
        versions = agent.get("/v1/secrets").json["secrets"]
        value = "1"
        for change, wanted in (
            (rotate(b"2"), "2"),
            (lambda: deployment.roll_back(vps, first), "1"),
            (rotate(b"3"), "3"),
            (lambda: deployment.roll_back(vps, first), "1"),
        ):
            generation, before = agent.generation, value
            change()
            agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status != 429)
            changed = agent.get(f"/v1/watch?after={generation}&timeout=30").json
            assert changed["changed"] == ["PASSWORD", "USER"]
            assert agent.generation == changed["generation"] > generation
            value = wanted
            assert served(agent) == {"USER": value, "PASSWORD": value}
            assert served(agent, "?version=previous") == {"USER": before, "PASSWORD": before}
        assert [s["version"] for s in agent.get("/v1/secrets").json["secrets"]] == [
            s["version"] for s in versions
        ]
        status = agent.status()
        assert (status["pending"], status["foreign"]) == ([], [])
        assert not any("twice" in warning or "not read" in warning for warning in status["warnings"])


def test_a_rollback_under_way_is_waited_for(cloud: Cloud) -> None:
    """Between the first new entry and the last old one nothing changes."""
    vps = cloud.vps("vps-rollback-002", {"USER": b"1", "PASSWORD": b"1"})
    deployment = cloud.deployment
    first = {entry.name.partition("/")[2]: entry.secret_ref for entry in deployment.entries(vps)}
    deployment.rotate(vps, {"USER": b"2", "PASSWORD": b"2"}, keeps=True)
    with Agent(lambda directory: cloud.configuration(vps, directory, NEVER)) as agent:
        agent.start().until_ready()
        generation = agent.generation
        for step in deployment.rollback_steps(vps, first):
            agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status != 429)
            if step == "removed the old entry vps-rollback-002/PASSWORD":
                break
            assert (served(agent), agent.generation) == ({"USER": "2", "PASSWORD": "2"}, generation)
        agent.until(lambda: served(agent) == {"USER": "1", "PASSWORD": "1"})


def test_what_is_no_entry_is_reported(cloud: Cloud) -> None:
    """A K that is none: it is nobody's, as the entry of another VPS."""
    vps = cloud.vps("vps-rollback-003", {"A": b"1"})
    first = cloud.deployment.entries(vps)[0]
    for end in ("~0", "~01", "~x", "~" + "9" * 16):
        wrong = type(first)(first.name + end, first.secret_ref)
        cloud.deployment._entry("POST", vps, wrong, "add the entry")
    with Agent(lambda directory: cloud.configuration(vps, directory, NEVER)) as agent:
        agent.start().until_ready()
        assert len(agent.status()["foreign"]) == 4
        assert [s["name"] for s in agent.get("/v1/secrets").json["secrets"]] == ["A"]
