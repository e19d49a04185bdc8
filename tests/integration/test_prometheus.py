"""Prometheus takes our metrics, and our alerts fire for what they say; by Debian's own promtool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab.testbed import promtool
from lab.testbed.deployer import Api
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docs/examples/vps-secrets.rules.yml"
TESTS = ROOT / "tests/alerts.yml"
OPTIONAL = {
    *("vps_secrets_credential_expires_timestamp_seconds", "vps_secrets_renewal_problem"),
    "vps_secrets_beacon_watching",
}
"""What is left out while it is not known."""
GRANTS = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


@pytest.fixture(scope="module")
def expositions() -> dict[str, bytes]:
    """What a real agent and a real deployer say, both with something to tell."""
    world = World()
    world.put("A", b"canary-value")
    with Agent(lambda directory: fake_configuration(directory, world, GRANTS)[1]) as agent:
        agent.start().until_ready()
        agent.get("/v1/secrets/A")
        agent.get("/v1/secrets/NONE")
        of_agent = agent.ask_control("/metrics").body
    with Api() as api:
        api.ask("GET", "/v1/figures")
        of_deployer = api.ask("GET", "/metrics").body
    return {"agent": of_agent, "deployer": of_deployer}


def alerts() -> list[dict[str, Any]]:
    """Return every rule."""
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("whose", ["agent", "deployer"])
def test_names_types_and_help_are_as_prometheus_wants_them(expositions: dict[str, bytes], whose: str) -> None:
    """Units, ``_total``, help for each."""
    assert promtool.check_metrics(expositions[whose]) == ""
    assert "help text" in promtool.check_metrics(b"# TYPE a counter\na 1\n")


def test_every_alert_asks_for_metrics_that_exist(expositions: dict[str, bytes]) -> None:
    """A metric that is renamed would silence its alert for ever."""
    told = b"".join(expositions.values()).decode()
    known = set(re.findall(r"^# TYPE (\S+)", told, re.MULTILINE)) | OPTIONAL
    for alert in alerts():
        asked = set(re.findall(r"vps_secrets_[a-z_]+", alert["expr"]))
        assert asked <= known, alert["alert"]
        assert asked or alert["expr"].startswith("up{")


def test_every_alert_has_a_page_that_exists() -> None:
    """File and heading."""
    for alert in alerts():
        path, _, heading = alert["annotations"]["runbook"].partition("#")
        text = (ROOT / path).read_text().lower()
        assert not heading or f"# {heading.replace('-', ' ')}\n" in text, alert["alert"]


def test_every_alert_fires_for_its_cause_and_for_nothing_less() -> None:
    """Each has a case that raises it after its time, and one that does not."""
    assert promtool.check_rules(RULES) == ""
    assert promtool.test_rules(TESTS) == ""
    cases = [case["alert_rule_test"] for case in yaml.safe_load(TESTS.read_text())["tests"]]
    for alert in alerts():
        of_it = [case for case in cases if case[0]["alertname"] == alert["alert"]]
        assert [bool(case[-1].get("exp_alerts")) for case in of_it] == [True, False], alert["alert"]


def test_an_expectation_that_is_not_met_is_told(tmp_path: Path) -> None:
    """The tool can fail: one case the other way round."""
    wrong = tmp_path / "alerts.yml"
    text = TESTS.read_text().replace("../docs/examples", str(RULES.parent))
    wrong.write_text(text.replace('values: "1x120"', 'values: "0x120"', 1))
    assert "FAILED" in promtool.test_rules(wrong)
