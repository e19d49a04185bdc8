"""The main path on real Keystone and real Barbican: from the container to the application's socket."""

from __future__ import annotations

import hashlib
import signal
from typing import TYPE_CHECKING

import pytest

from deployer.cloud.secrets import DEMO_NAMES, generate_value
from lab.testbed.cloud import Cloud
from lab.testbed.running import Agent

if TYPE_CHECKING:
    from collections.abc import Iterator

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


def digest(value: bytes) -> str:
    """Return what a test may show of a value."""
    return hashlib.sha256(value).hexdigest()[:16]


def digests(agent: Agent) -> dict[str, str]:
    """Return name to digest of everything in the bundle."""
    return {name: digest(value.encode()) for name, value in agent.get("/v1/bundle").json["secrets"].items()}


@pytest.fixture
def own_cloud() -> Iterator[Cloud]:
    """A cloud that a test may break."""
    with Cloud() as made:
        yield made


def test_seven_secrets_from_barbican_to_the_socket(cloud: Cloud) -> None:
    """Read, rotated, removed; a quiet cycle is one call; a second VPS's names are refused."""
    values = {name: generate_value(name) for name in DEMO_NAMES}
    vps = cloud.vps("vps-e2e-001", values)
    cloud.vps("vps-e2e-002", {"OTHER": b"other"})
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        assert digests(agent) == {name: digest(value) for name, value in values.items()}
        first = agent.status()["cycles"]["calls"]
        assert first["keystone"] >= 1
        assert first["barbican"] == 2 * 7 + 1
        assert agent.ask_control("/v1/refresh", "POST").status == 200
        second = agent.status()["cycles"]["calls"]
        assert second == {"keystone": first["keystone"], "barbican": first["barbican"] + 1}

        generation = agent.generation
        fresh = b"  a new value\n"
        cloud.deployment.rotate(vps, {"JWT_SECRET": fresh})
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status != 429)
        assert agent.get(f"/v1/watch?after={generation}&timeout=10").json["changed"] == ["JWT_SECRET"]
        assert digest(agent.get("/v1/secrets/JWT_SECRET").body) == digest(fresh)
        previous = agent.get("/v1/secrets/JWT_SECRET?version=previous").body
        assert digest(previous) == digest(values["JWT_SECRET"])
        assert agent.get("/v1/secrets/OTHER").status == 404
        for value in (*values.values(), fresh, b"other"):
            assert (value.decode().strip() in agent.log) is False


def test_an_outage_is_served_through(own_cloud: Cloud) -> None:
    """Barbican and Keystone killed: every secret is still served, the step is told, and it comes back."""
    vps = own_cloud.vps("vps-prod-001", {"A": b"a-value"})
    with Agent(lambda directory: own_cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        own_cloud.testbed.kill("barbican")
        failed = agent.ask_control("/v1/refresh", "POST")
        assert failed.status == 502
        assert failed.json["failure"]["step"] == "connection"
        own_cloud.testbed.kill("keystone")
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 502)
        assert digest(agent.get("/v1/secrets/A").body) == digest(b"a-value")
        own_cloud.testbed.restart("keystone")
        own_cloud.testbed.restart("barbican")
        agent.until(lambda: agent.status()["failure"] is None, 60)  # by its own next attempt
        own_cloud.deployment.rotate(vps, {"A": b"a-new-value"})
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
        agent.until(lambda: digest(agent.get("/v1/secrets/A").body) == digest(b"a-new-value"))


def test_access_taken_away_is_told_and_given_back(cloud: Cloud) -> None:
    """An ACL without this VPS: served for the grace, then dropped; back with the ACL."""
    vps = cloud.vps("vps-e2e-003", {"A": b"a-value"})
    extra = '[staleness]\nrevocation_grace = "2s"\n' + GRANT
    with Agent(lambda directory: cloud.configuration(vps, directory, extra)) as agent:
        agent.start().until_ready()
        cloud.deployment.revoke(vps)
        failed = agent.ask_control("/v1/refresh", "POST")
        assert failed.json["failure"]["step"] == "permission"
        assert failed.json["failure"]["fault"] == "denied"
        response = agent.get("/v1/secrets/A")
        if agent.status()["droppedIn"] is not None:  # else two seconds have passed already, on a busy machine
            assert response.status == 200
        agent.until(lambda: agent.get("/v1/secrets/A").status == 404)
        cloud.deployment.restore(vps)
        agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)
        assert digest(agent.get("/v1/secrets/A").body) == digest(b"a-value")


def test_a_refused_reload_does_not_stop_the_readings(cloud: Cloud) -> None:
    """A typing error in a grant: the former grants stay in force, and a rotation still arrives."""
    vps = cloud.vps("vps-e2e-004", {"A": b"a-value"})
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        agent.write(agent.configuration.read_text() + "polll = 3\n")
        cloud.deployment.rotate(vps, {"A": b"a-new-value"})
        agent.signal(signal.SIGHUP)
        agent.until(lambda: digest(agent.get("/v1/secrets/A").body) == digest(b"a-new-value"))
        assert "polll: is not a key of this table" in agent.status()["configurationError"]
