"""The credentials door and the sign for applications that can't watch, with systemd's own parts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.system.installed import AGENT, USER, VALUES

if TYPE_CHECKING:
    from tests.system.installed import Installed

GRANT = '\n[[grant]]\nunit = "consumer.service"\nsecrets = ["JWT_*"]\n'
CONSUMER = (
    "systemd-run --quiet --pipe --wait --collect --unit {unit} --property TimeoutStartSec=60 "
    "--property LoadCredential={name}:/run/vps-secrets/credentials.sock "
    "sh -c 'sha256sum $CREDENTIALS_DIRECTORY/*'"
)
DIGEST = hashlib.sha256(VALUES["JWT_SECRET"]).hexdigest()


def _grant(machine: Installed) -> None:
    machine.write("/tmp/grant", GRANT)  # noqa: S108  # inside a test's machine
    machine.run(f"cat /tmp/grant >>/etc/vps-secrets-agent/agent.toml; systemctl reload {AGENT}")
    machine.until(lambda: len(machine.status()["grants"]) == 2)


def test_load_credential(own: Installed) -> None:
    """A granted unit gets its secret; without a grant the unit fails and both journals say why."""
    _grant(own)
    got = own.run(CONSUMER.format(unit="consumer", name="JWT_SECRET"))
    assert got.out.split()[0] == DIGEST
    for unit, name in (("other", "JWT_SECRET"), ("consumer", "DATABASE_URL"), ("consumer", "JWT_NONE")):
        refused = own.run(CONSUMER.format(unit=unit, name=name), check=False)
        assert (refused.code, refused.out) == (243, "")
    assert "refused the credential 'JWT_SECRET' to other.service" in own.messages("--unit", AGENT)
    assert "CREDENTIALS" in own.messages("--unit", "other.service")
    assert own.status()["denied"] == {"credentials": 2}, "the third is granted, and absent"
    assert "2 at credentials.sock" in own.run("vps-secrets status").out
    denied = own.journal("VPS_SECRETS_DOOR=credentials", "VPS_SECRETS_OUTCOME=denied")
    assert {entry["VPS_SECRETS_UNIT"] for entry in denied} == {"other.service", "consumer.service"}


def test_load_credential_before_the_agent_is_ready(own: Installed) -> None:
    """It is held, over a kill of the agent too, until the secret is there; a stop refuses it."""
    _grant(own)
    own.cloud.testbed.stop("barbican")
    own.run(f"systemctl stop {AGENT}; systemctl start {AGENT}")
    waiting = own.start("sh", "-c", CONSUMER.format(unit="consumer", name="JWT_SECRET"))
    own.until_said("waits for the credential", "--unit", AGENT)
    own.kill()
    own.until(lambda: own.messages("--unit", AGENT).count("waits for the credential") == 2)
    assert waiting.poll() is None
    own.cloud.testbed.restart("barbican")
    own.run("vps-secrets refresh", check=False)
    out, _ = waiting.communicate(timeout=90)
    assert out.split()[0] == DIGEST

    own.cloud.testbed.stop("barbican")
    own.run(f"systemctl stop {AGENT}; systemctl start {AGENT}")
    waiting = own.start("sh", "-c", CONSUMER.format(unit="consumer", name="JWT_SECRET"))
    own.until(lambda: own.messages("--unit", AGENT).count("waits for the credential") == 3)
    own.run(f"systemctl stop {AGENT}")
    out, _ = waiting.communicate(timeout=90)
    assert (waiting.returncode, out) == (243, "")


SIGNS = "stat --format='%n %.9Y' /run/vps-secrets/rotated/recruitiq /run/vps-secrets/rotated/all 2>/dev/null"
SETTLED = f"""[ "$({SIGNS})" = "$(cat /run/vps-secrets/told/recruitiq)" ]
[ "$(systemctl is-active vps-secrets-rotated@recruitiq.service)" = inactive ]
[ "$(systemctl show --property NJobs --value)" = 0 ]"""
"""Every sign has been told, and systemd has nothing left to do for it."""


def _starts(machine: Installed) -> int:
    """Return how often the unit was started, once every sign so far has been told."""
    machine.until(lambda: machine.status().get("state") == "ready")
    machine.until(lambda: machine.run(f"set -e; {SETTLED}", check=False).code == 0)
    return len(machine.run("cat /run/starts").out.split())


def test_a_rotation_restarts_the_unit_once(own: Installed) -> None:
    """Two secrets, one restart; none for a restart of the agent that changed nothing."""
    own.write(
        "/etc/systemd/system/recruitiq.service",
        f"[Service]\nUser={USER}\nExecStartPre=+/bin/sh -c 'echo start >>/run/starts'\n"
        "ExecStart=/bin/sleep infinity\n",
    )
    own.run("systemctl daemon-reload; systemctl start recruitiq")
    own.run("systemctl enable --now vps-secrets-rotated@recruitiq.path")
    signs = own.run(SIGNS, check=False).out
    own.run(f"systemctl restart {AGENT}")
    own.kill()
    own.until(lambda: own.status().get("state") == "ready")
    assert own.run(SIGNS, check=False).out == signs, "nothing that the unit would be told"
    own.cloud.deployment.rotate(own.vps, {name: b"new " + value for name, value in VALUES.items()})
    own.refresh()
    assert _starts(own) == 2
    own.run(f"systemctl restart {AGENT}")
    assert _starts(own) == 2
    own.cloud.deployment.rotate(own.vps, VALUES)
    own.refresh()
    assert _starts(own) == 3
    sign = "/run/vps-secrets/rotated/all"
    own.run(f"for _ in 1 2 3; do touch {sign}; sleep .1; done")
    assert _starts(own) == 4, "rotations close together are told once"
