"""``vps-secrets doctor`` with a real agent on a real cloud: an account that is bound, and one that is not."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from lab.testbed.cloud import Account
from lab.testbed.running import ROOT, Agent

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud

VALUE = b"canary-2f6f0c-doctor"
GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


def doctor(agent: Agent, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """Run it; return its exit status and what it found."""
    command = [*(sys.executable, "-m", "agent.cli", "doctor", "--json"), *options]
    command += ["--config", str(agent.configuration), "--control-socket", str(agent.control)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert VALUE.decode() not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["findings"]


def about(found: list[dict[str, Any]], what: str) -> list[tuple[str, str]]:
    """Return level and words about one thing."""
    return [(one["level"], one["words"]) for one in found if one["what"] == what]


def test_an_account_that_is_bound(cloud: Cloud) -> None:
    """It reads its own container and can do nothing else, a neighbour's container neither."""
    vps, neighbour = cloud.vps("vps-doctor", {"A": VALUE}), cloud.vps("vps-doctor-2", {"A": VALUE})
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        before = agent.status()["cycles"]["total"]
        status, found = doctor(agent, "--neighbour", neighbour.container_ref)
        assert status == 0, [one for one in found if one["level"] == "failure"]
        assert [level for level, _ in about(found, "account")] == ["ok"] * 6
        assert about(found, "container")[0][0] == about(found, "login")[0][0] == "ok"
        assert about(found, "clock")[0][0] == "ok"
        assert about(found, "user root") == [("ok", "can read A, and gets as far as the socket")]
        assert agent.status()["cycles"]["total"] == before


def test_a_cloud_whose_rules_can_be_switched_off_is_told(either: Cloud) -> None:
    """An older keystonemiddleware asks for no rule where a service's token comes along."""
    vps = either.vps("vps-doctor-5", {"A": VALUE})
    with Agent(lambda directory: either.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        _, found = doctor(agent)
    old = "2025.1" in str(either.testbed.options.venv)
    assert [level for level, _ in about(found, "access rules")] == ["warning" if old else "ok"]


def test_an_account_that_is_not_bound_is_told(cloud: Cloud) -> None:
    """A credential without access rules, which the agent itself does not notice."""
    vps = cloud.vps("vps-doctor-3", {"A": VALUE})
    user = cloud.runtime[vps.vps_id].user
    credential = cloud.accounts.application_credential(user, cloud.session_of(user), "unbound")
    cloud.runtime[vps.vps_id] = Account(user, credential)
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        status, found = doctor(agent)
        assert status == 1
        can = {words for level, words in about(found, "account") if level == "failure"}
        assert can == {"can list what its user has in Keystone (EC2, TOTP)"}


def test_what_is_in_the_way_is_told(cloud: Cloud) -> None:
    """A credential that was revoked, and an agent that is away."""
    vps = cloud.vps("vps-doctor-4", {"A": VALUE})
    with Agent(lambda directory: cloud.configuration(vps, directory, GRANT)) as agent:
        agent.start().until_ready()
        (agent.directory / "keystone-credential").write_text("another")
        agent.stop()
        status, found = doctor(agent)
        assert status == 1
        assert {one["what"] for one in found if one["level"] == "failure"} >= {"agent", "login"}
        agent.write("nonsense = 1\n")
        status, found = doctor(agent)
        assert status == 1
        assert any("nonsense" in one["words"] for one in found)
