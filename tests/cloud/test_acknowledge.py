"""An agent says in its container what it serves, on the newest Keystone and Barbican and on older ones.

The deployment's side is its own: its account, and the worker's way to read a container.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common import sealing, sealing_key
from common.acknowledgement import consumer_of, digest_of, served_digest
from common.names import Version
from deployer.cloud.accounts import ACKNOWLEDGING_RULES
from deployer.cloud.barbican import Barbican
from lab.testbed.cloud import Account, Cloud
from lab.testbed.fakes.proxy import FaultProxy
from lab.testbed.running import Agent
from lab.testbed.testbed import Options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deployer.cloud.accounts import Rule
    from deployer.cloud.barbican_answers import Listing
    from deployer.cloud.secrets import Vps
    from lab.testbed.fakes.proxy import Handler

BUILD = Path(__file__).parents[2] / "build"
ON = """
[fetch]
acknowledge = true
[rotation]
poll_interval = "24h"
[[grant]]
user = "root"
secrets = ["*"]
"""
CONSUMERS = ("POST", "DELETE")


@pytest.fixture(scope="module", params=["cloud-venv", "cloud-2025.1-venv"], ids=["newest", "2025.1"])
def release(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud of each release."""
    with Cloud(Options(venv=BUILD / request.param, token_cache_time=-1)) as cloud:
        yield cloud


def new_vps(cloud: Cloud) -> Vps:
    """Return a VPS whose agent may acknowledge."""
    return cloud.vps(f"vps-{os.urandom(4).hex()}", {"A": b"1", "B": b"1"}, acknowledges=True)


def agent_of(cloud: Cloud, vps: Vps, proxy: FaultProxy | None = None) -> Agent:
    """Return its agent, perhaps with a proxy before Barbican."""

    def configuration(directory: Path) -> str:
        text = cloud.configuration(vps, directory, ON)
        return (
            text if proxy is None else text.replace("[app]", f'endpoint_override = "{proxy.url}"\n[app]', 1)
        )

    return Agent(configuration)


def listing(cloud: Cloud, vps: Vps) -> Listing:
    """Return the container as the worker reads it, which never reads a value."""
    container = Version(vps.container_ref.rpartition("/")[2])
    barbican = Barbican(cloud.deployer_session, cloud.testbed.places.barbican_url)
    return barbican.container(vps.vps_id, container)


def said(cloud: Cloud, vps: Vps) -> list[str]:
    """Return the digests that the deployment finds in the container."""
    found = map(digest_of, listing(cloud, vps).consumers)
    return sorted(digest for digest in found if digest is not None)


def wanted(cloud: Cloud, vps: Vps) -> list[str]:
    """Return the digest of what the container lists, as the deployment computes it."""
    return [served_digest({entry.name: entry.version for entry in listing(cloud, vps).entries})]


def until_arrived(cloud: Cloud, vps: Vps, agent: Agent) -> None:
    """Wait until the deployment sees that the agent serves what is listed, and nothing else."""
    agent.until(lambda: said(cloud, vps) == wanted(cloud, vps), 60)
    agent.until(lambda: bool(agent.status()["acknowledged"]["current"]))


def refresh(agent: Agent) -> None:
    """Have it read Barbican."""
    agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status == 200)


def with_rules(cloud: Cloud, vps: Vps, rules: tuple[Rule, ...]) -> None:
    """Give the VPS a credential with these rules."""
    user = cloud.runtime[vps.vps_id].user
    name = f"agent-{os.urandom(4).hex()}"
    credential = cloud.accounts.application_credential(user, cloud.session_of(user), name, rules)
    cloud.runtime[vps.vps_id] = Account(user, credential)


def test_the_deployment_sees_that_a_rotation_has_arrived(release: Cloud) -> None:
    """First start, rotation, rollback, restart: one consumer, of what is served; three calls a rotation."""
    vps = new_vps(release)
    first = {e.name.partition("/")[2]: e.secret_ref for e in release.deployment.entries(vps)}
    with FaultProxy(release.testbed.places.barbican_url) as proxy, agent_of(release, vps, proxy) as agent:
        agent.start().until_ready()
        until_arrived(release, vps, agent)
        for back in (False, True):
            generation, former = agent.generation, said(release, vps)
            if back:
                release.deployment.roll_back(vps, first)
            else:
                release.deployment.rotate(vps, {"A": b"2", "B": b"2"}, keeps=True)
            assert said(release, vps) == former != wanted(release, vps), "what is not served has not arrived"
            proxy.seen.clear()
            refresh(agent)
            until_arrived(release, vps, agent)
            served = agent.status()
            assert served["acknowledged"]["generation"] == served["generation"] > generation
            assert len(proxy.seen) == (1 + 2 * 2) + 3, "two versions are read; it costs three calls more"
            assert [line.partition(" ")[0] for line in proxy.seen[-3:]] == ["GET", "POST", "DELETE"]

        generation = agent.generation  # the container has been changed since it was read
        proxy.seen.clear()
        refresh(agent)
        assert (agent.generation, len(proxy.seen)) == (generation, 1), "a consumer is no rotation"
        assert agent.status()["nextAttemptIn"] > 60
        proxy.seen.clear()
        assert agent.stop() == 0
        agent.start().until_ready()
        assert [line for line in proxy.seen if not line.startswith("GET")] == []
        assert agent.status()["acknowledged"]["current"]


def test_another_vps_can_not(release: Cloud) -> None:
    """With the same rules: the ACL of the container decides, to add, to remove, and to see."""
    vps, other = new_vps(release), new_vps(release)
    with agent_of(release, vps) as agent:
        agent.start().until_ready()
        until_arrived(release, vps, agent)
    session = release.accounts.log_in_with(release.runtime[other.vps_id].credential)
    for digest in (said(release, vps)[0], "0" * 64):
        for method in CONSUMERS:
            answer = session.request(
                f"{vps.container_ref}/consumers", method, json=consumer_of(digest), raise_exc=False, log=False
            )
            assert answer.status_code == 403
    assert said(release, vps) == wanted(release, vps)


@pytest.mark.parametrize("missing", CONSUMERS)
def test_without_the_rule_it_is_a_warning(release: Cloud, missing: str) -> None:
    """What is served is served; with the rule it is made good, without anybody's doing."""
    vps = new_vps(release)
    with agent_of(release, vps) as agent:
        agent.start().until_ready()
        until_arrived(release, vps, agent)
        former = said(release, vps)
        with_rules(release, vps, tuple(rule for rule in ACKNOWLEDGING_RULES if rule[0] != missing))
        agent.write(release.configuration(vps, agent.directory, ON))
        release.deployment.rotate(vps, {"A": b"2"})
        refresh(agent)
        agent.until(lambda: agent.status()["acknowledged"]["problem"] is not None)
        (warning,) = (w for w in agent.status()["warnings"] if "POST and DELETE on /v1/containers" in w)
        assert "HTTP 401" in warning
        assert agent.log.count(warning) == 1
        assert agent.get("/v1/secrets/A").body == b"2"
        assert agent.status()["failure"] is None
        new = wanted(release, vps)
        assert said(release, vps) == (former if missing == "POST" else sorted(former + new))
        assert agent.status()["acknowledged"]["current"] is (missing == "DELETE")

        with_rules(release, vps, ACKNOWLEDGING_RULES)
        agent.write(release.configuration(vps, agent.directory, ON))
        refresh(agent)
        assert said(release, vps) == new
        assert agent.status()["acknowledged"]["problem"] is None


def test_killed_between_the_two_calls_one_is_left_in_the_end(release: Cloud) -> None:
    """The fetch program is killed when it has registered the new one: the next cycle removes the former."""
    vps = new_vps(release)
    with FaultProxy(release.testbed.places.barbican_url) as proxy, agent_of(release, vps, proxy) as agent:
        agent.start().until_ready()
        until_arrived(release, vps, agent)
        former = said(release, vps)
        killed: list[int] = []

        def kill(handler: Handler) -> None:
            del handler
            killed.extend(children(agent))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

        with proxy.faulty(kill, "DELETE "):
            release.deployment.rotate(vps, {"A": b"2"})
            refresh(agent)
            agent.until(lambda: bool(killed) and agent.status()["failure"] is not None, 60)
            assert said(release, vps) == sorted(former + wanted(release, vps))
            assert agent.get("/v1/secrets/A").body == b"2"
        until_arrived(release, vps, agent)
        agent.until(lambda: agent.status()["failure"] is None)
        assert len(killed) == 1


def children(agent: Agent) -> list[int]:
    """Return the processes that the agent has started."""
    assert agent.process is not None
    pid = agent.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_container_with_consumers_can_be_deleted(release: Cloud) -> None:
    """They are no brake on its owner."""
    vps = new_vps(release)
    with agent_of(release, vps) as agent:
        agent.start().until_ready()
        until_arrived(release, vps, agent)
    release.deployment.delete_vps(vps)


def test_the_key_is_announced_where_nobody_says_it(release: Cloud, tmp_path: Path) -> None:
    """As in a container that was made anew; once, by who has the key, and never beside another one."""
    vps = new_vps(release)
    private, public = sealing.new_key()
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(sealing_key.encoded(private) + "\n")
    wanted = sealing_key.announcement_of(public)["URL"]
    with_key = ON.replace("acknowledge = true", f'acknowledge = true\nsealing_key_file = "{key}"')
    with Agent(lambda directory: release.configuration(vps, directory, with_key)) as agent:
        agent.start().until_ready()
        assert wanted in listing(release, vps).consumers
    other = new_vps(release)
    foreign = sealing_key.announcement_of(b"k" * sealing_key.KEY_BYTES)
    account = release.runtime[other.vps_id]
    release.accounts.log_in_with(account.credential).post(f"{other.container_ref}/consumers", json=foreign)
    with Agent(lambda directory: release.configuration(other, directory, with_key)) as agent:
        agent.start().until_ready()
        found = {url for url in listing(release, other).consumers if sealing_key.announced_by(url)}
        assert found == {foreign["URL"]}
