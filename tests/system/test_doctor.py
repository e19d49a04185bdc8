"""``vps-secrets doctor`` on a machine as it is installed, and on one that somebody has weakened."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.system.installed import Installed

DROP_IN = "/etc/systemd/system/vps-secrets-agent.service.d/weaker.conf"


def doctor(machine: Installed) -> tuple[int, list[dict[str, Any]]]:
    """Return exit status and findings."""
    done = machine.run("vps-secrets doctor --json", check=False)
    found: list[dict[str, Any]] = json.loads(done.out)["findings"]
    return done.code, found


def test_a_sandbox_that_is_weaker_is_found(serving: Installed) -> None:
    """As installed there is no failure; a drop-in that gives a network is one, and is named."""
    code, found = doctor(serving)
    assert [one for one in found if one["level"] == "failure"] == []
    assert code == 0
    assert len([one for one in found if (one["level"], one["what"]) == ("ok", "sandbox")]) == 2
    assert "its own key" in next(one["words"] for one in found if one["what"] == "credential's file")
    serving.write(DROP_IN, "[Service]\nPrivateNetwork=no\n")
    serving.run("systemctl daemon-reload")
    try:
        code, found = doctor(serving)
        assert code == 1
        (failed,) = (one for one in found if one["level"] == "failure")
        assert (failed["what"], DROP_IN in failed["remedy"]) == ("sandbox", True)
        assert "PrivateNetwork=no" in failed["words"]
    finally:
        serving.run(f"rm {DROP_IN}; systemctl daemon-reload")


def test_another_user_learns_what_he_may(serving: Installed) -> None:
    """Nothing of the cloud, and that the control socket is not for him."""
    done = serving.run("vps-secrets doctor", user="recruitiq", check=False)
    assert done.code == 1
    assert "do: sudo vps-secrets doctor" in done.out
