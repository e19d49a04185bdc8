"""Sealed secrets on the real Keystone and Barbican: fetch opens them, serve holds them to their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common import sealing, sealing_key
from common.names import SecretName
from common.sealed import Header
from lab.testbed.running import Agent

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.cloud.secrets import Vps
    from lab.testbed.cloud import Cloud

NEVER = """
[rotation]
poll_interval = "24h"
previous_grace = "1h"
[[grant]]
user = "root"
secrets = ["*"]
"""
PRIVATE, PUBLIC = sealing.new_key()
NEXT, NEXT_PUBLIC = sealing.new_key()


def sealed(vps_id: str, name: str, value: bytes, sequence: int, **more: Any) -> bytes:
    """Return a value for a VPS, sealed to the key of these tests unless it says another."""
    public = more.pop("public", PUBLIC)
    return sealing.seal(value, public, Header(vps_id, SecretName(name), sequence, **more))


class Sealed:
    """A VPS with its agent, whose key is in a file, as systemd would give it."""

    def __init__(self, cloud: Cloud, vps: Vps, *keys: bytes, require: bool = True) -> None:
        self._cloud = cloud
        self.vps = vps
        self._keys = keys
        self._require = require
        self.agent = Agent(self._configuration)

    def _configuration(self, directory: Path) -> str:
        fetch = f"[fetch]\nrequire_sealed = {str(self._require).lower()}\n"
        if self._keys:
            key = directory / "key"
            key.touch(0o600)
            key.write_text("".join(sealing_key.encoded(one) + "\n" for one in self._keys))
            fetch += f'sealing_key_file = "{key}"\n'
        return self._cloud.configuration(self.vps, directory, NEVER + fetch)

    def give(self, **values: bytes) -> None:
        """Rotate to these payloads, and have the agent read them."""
        self._cloud.deployment.rotate(self.vps, values, keeps=True)
        self.read()

    def read(self) -> None:
        """Have the agent read Barbican now."""
        self.agent.until(lambda: self.agent.ask_control("/v1/refresh", "POST").status != 429)

    def get(self, name: str, version: str = "") -> bytes:
        """Return what the application gets."""
        return self.agent.get(f"/v1/secrets/{name}{version}").body

    def said(self) -> str:
        """Return what the status warns of."""
        return "\n".join(self.agent.status()["warnings"])


def test_sealed_values_are_served_and_rotate(cloud: Cloud) -> None:
    """As plain ones do; an old one does not come back, and a compromised one has no former version."""
    vps = cloud.vps("vps-sealed-001", {"A": sealed("vps-sealed-001", "A", b"one", 1)})
    sealed_vps = Sealed(cloud, vps, PRIVATE)
    first = {"A": cloud.deployment.entries(vps)[0].secret_ref}
    with sealed_vps.agent as agent:
        agent.start().until_ready()
        assert sealed_vps.get("A") == b"one"
        sealed_vps.give(A=sealed(vps.vps_id, "A", b"two", 2, floor=1))
        assert (sealed_vps.get("A"), sealed_vps.get("A", "?version=previous")) == (b"two", b"one")
        cloud.deployment.roll_back(vps, first)
        sealed_vps.read()
        assert (sealed_vps.get("A"), sealed_vps.get("A", "?version=previous")) == (b"one", b"two")
        sealed_vps.give(A=sealed(vps.vps_id, "A", b"three", 3, floor=3))  # the others were compromised
        assert sealed_vps.get("A") == b"three"
        assert agent.get("/v1/secrets/A?version=previous").problem == "no-previous-version"
        cloud.deployment.roll_back(vps, first)
        sealed_vps.read()
        agent.until(lambda: "older than one that ended it" in sealed_vps.said())
        assert sealed_vps.get("A") == b"three"
        assert agent.get("/v1/secrets/A?version=previous").problem == "no-previous-version"


def test_what_is_not_for_this_vps_is_refused_and_the_former_value_stays(cloud: Cloud) -> None:
    """Each with its reason, which has nothing of the value; other names rotate on."""
    vps = cloud.vps("vps-sealed-002", {"A": sealed("vps-sealed-002", "A", b"good", 5)})
    sealed_vps = Sealed(cloud, vps, PRIVATE)
    good = sealed(vps.vps_id, "A", b"wrong", 6)
    with sealed_vps.agent as agent:
        agent.start().until_ready()
        for payload, reason in (
            (sealed("vps-sealed-001", "A", b"wrong", 6), "another VPS"),
            (sealed(vps.vps_id, "B", b"wrong", 6), "another name"),
            (sealed(vps.vps_id, "A", b"wrong", 6, public=NEXT_PUBLIC), "another key"),
            (good.rpartition(b".")[0], "truncated"),
            (b"plain", "not sealed"),
        ):
            sealed_vps.give(A=payload)
            agent.until(lambda reason=reason: reason in sealed_vps.said())  # type: ignore[misc]
            assert sealed_vps.get("A") == b"good"
            assert "wrong" not in sealed_vps.said()
        sealed_vps.give(A=sealed(vps.vps_id, "A", b"better", 7, keep_s=60))
        agent.until(lambda: sealed_vps.get("A") == b"better", 90)
        assert "wrong" not in agent.journal


def test_without_a_key_all_is_as_before(cloud: Cloud) -> None:
    """Plain values are served, a sealed one is refused and says what is missing; with two keys both open."""
    vps = cloud.vps("vps-sealed-003", {"A": b"plain"})
    sealed_vps = Sealed(cloud, vps, require=False)
    with sealed_vps.agent as agent:
        agent.start().until_ready()
        assert sealed_vps.get("A") == b"plain"
        sealed_vps.give(A=sealed(vps.vps_id, "A", b"new", 1, public=NEXT_PUBLIC))
        agent.until(lambda: "this VPS has no key" in sealed_vps.said())
        assert sealed_vps.get("A") == b"plain"
    both = Sealed(cloud, vps, PRIVATE, NEXT)
    with both.agent as agent:
        agent.start().until_ready()
        assert both.get("A") == b"new"
        both.give(A=sealed(vps.vps_id, "A", b"newer", 2))
        assert both.get("A") == b"newer"
