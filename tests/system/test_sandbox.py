"""The restrictions of the units, tried from inside: what scores well may still not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.system.probing import possible_in

if TYPE_CHECKING:
    from tests.system.installed import Installed

UNITS = {
    "serve": "vps-secrets-agent.service",
    "fetch": "vps-secrets-fetch@.service",
    "rotated": "vps-secrets-rotated@.service",
    "renew": "vps-secrets-renew.service",
    "join": "vps-secrets-join.service",
    "metrics": "vps-secrets-metrics@.service",
    "metrics-file": "vps-secrets-metrics-file.service",
}
AS_ROOT = {"rotated", "renew", "join"}
WITH_NETWORK = {"fetch", "renew", "join"}
BLIND = {"fetch", "metrics", "metrics-file"}
"""Root sees root's, whatever ProtectProc= says."""
WRITABLE = {
    "serve": ["/run/vps-secrets/rotated"],
    "fetch": [],
    "rotated": ["/run/vps-secrets/told"],
    "renew": ["/etc/vps-secrets-agent"],
    "join": ["/etc", "/run", "/var/lib/systemd", "/var/lib/vps-secrets-join"],
    "metrics": [],
    "metrics-file": ["/run/vps-secrets-metrics"],
}


@pytest.mark.parametrize("which", UNITS)
def test_what_the_sandbox_forbids(serving: Installed, which: str) -> None:
    """Tried from inside."""
    found = possible_in(serving, UNITS[which])
    writable = found.pop("writable")
    topmost = [one for one in writable if not any(one.startswith(f"{other}/") for other in writable)]
    assert sorted(topmost) == WRITABLE[which]
    assert (found.pop("uid") == 0) == (which in AS_ROOT)
    assert found.pop("inet") == (which in WITH_NETWORK)
    assert found.pop("sees_other_processes") == (which not in BLIND), "grants by unit and systemctl need it"
    # it encrypts what only this machine decrypts, and replaces one of them
    assert found.pop("encrypted_credential") == found.pop("host_key") == (which in {"renew", "join"})
    assert found == dict.fromkeys(found, False), "nothing else may be possible"
