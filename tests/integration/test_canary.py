"""No secret leaves but through the app socket: success and every failure, with all logs at their loudest.

The values, the credential and the passwords are random; a failing test shows which kind leaked, never what.
"""

from __future__ import annotations

import base64
import secrets
import signal
import urllib.parse
from typing import TYPE_CHECKING

from lab.testbed.running import Agent, raw

if TYPE_CHECKING:
    from pathlib import Path

    from lab.testbed.cloud import Cloud

EXTRA = """
[log]
level = "debug"
[staleness]
revocation_grace = "0s"
[[grant]]
user = "root"
secrets = ["*"]
"""


def forms(value: bytes) -> set[bytes]:
    """Return how a value may look in a text."""
    return {
        value,
        base64.b64encode(value).rstrip(b"="),
        base64.urlsafe_b64encode(value).rstrip(b"="),
        value.hex().encode(),
        repr(value).encode()[2:-1],
        urllib.parse.quote_from_bytes(value).encode(),
    }


def test_nothing_leaks_in_success_and_failure(cloud: Cloud) -> None:
    """Reads, rotations, refused credentials, lost access, a dead service, nonsense on the sockets, a kill."""
    vps_id = f"vps-canary-{secrets.token_hex(3)}"
    hidden = {f"value {index}": secrets.token_urlsafe(24).encode() for index in range(3)}
    vps = cloud.vps(vps_id, {"A": hidden["value 0"], "B": hidden["value 1"]})
    account = cloud.runtime[vps_id]
    hidden["credential"] = account.credential.secret.encode()
    with Agent(lambda directory: cloud.configuration(vps, directory, EXTRA)) as agent:
        agent.start().until_ready()
        told = [_use(agent)]
        cloud.deployment.rotate(vps, {"A": hidden["value 2"]})
        told.append(_refresh(agent))
        credential = agent.directory / "keystone-credential"
        for wrong in (b"nonsense", b"", secrets.token_bytes(64)):
            credential.write_bytes(wrong)
            told.append(_refresh(agent))
        credential.write_bytes(hidden["credential"])
        credential.chmod(0o644)
        told.append(_refresh(agent))
        credential.chmod(0o600)
        cloud.deployment.revoke(vps)
        told += [_refresh(agent), _use(agent)]
        cloud.deployment.restore(vps)
        told += [_refresh(agent), _use(agent)]
        good = agent.configuration.read_text()
        for address in ("http://127.0.0.1:1/v3", cloud.testbed.places.barbican_url):
            agent.write(good.replace(cloud.auth_url, address))
            agent.signal(signal.SIGHUP)
            told.append(_refresh(agent))
        agent.stop()
        tokens = _tokens(agent.directory)
        whole = agent.log.encode() + b"".join(told) + tokens
    leaked = [
        kind for kind, value in hidden.items() for form in forms(value) if len(form) > 8 and form in whole
    ]
    assert leaked == []
    assert b"gAAAAA" not in whole, "a Fernet token leaked"
    assert b"Traceback" not in whole
    assert len(agent_steps(whole)) >= 3


def agent_steps(whole: bytes) -> set[bytes]:
    """Return which steps failed: the test is worth little where only one kind of failure came about."""
    steps = (
        b"credential failed",
        b"Keystone failed",
        b"permission failed",
        b"connection failed",
        b"catalog failed",
    )
    return {step for step in steps if step in whole}


def _refresh(agent: Agent) -> bytes:
    agent.until(lambda: agent.ask_control("/v1/refresh", "POST").status != 429)
    return _documents(agent)


def _documents(agent: Agent) -> bytes:
    paths = ("/v1/status", "/v1/manifest", "/v1/explain?user=root&name=A", "/metrics")
    return b"".join(agent.ask_control(path).body for path in paths)


def _use(agent: Agent) -> bytes:
    """Read values, whose answers are not looked at, and return every other answer."""
    for path in ("/v1/secrets/A", "/v1/bundle", "/v1/secrets/A?version=previous"):
        agent.get(path)
    others = (
        "/v1/secrets",
        "/v1/watch?timeout=0",
        "/v1/health/ready",
        "/v1/secrets/NONE",
        "/v1/secrets/a%20b",
    )
    answers = [agent.get(path).body for path in others]
    answers.append(raw(agent.app, b"NONSENSE\r\n\r\n", half_close=True))
    return b"".join(answers) + _documents(agent)


def _tokens(directory: Path) -> bytes:
    """Return what lies in the agent's directory, but the credential that the test put there itself."""
    names = [path for path in directory.iterdir() if path.is_file() and path.name != "keystone-credential"]
    return b"".join(path.read_bytes() for path in names)
