"""The restrictions of the units, tried from inside: what scores well may still not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.system.installed import Installed

PROBE = (Path(__file__).parent / "probe_inside.py").read_text()
UNITS = {
    "serve": "vps-secrets-agent.service",
    "fetch": "vps-secrets-fetch@.service",
    "rotated": "vps-secrets-rotated@.service",
}
WRITABLE = {"serve": ["/run/vps-secrets/rotated"], "fetch": [], "rotated": ["/run/vps-secrets/told"]}


@pytest.mark.parametrize("which", UNITS)
def test_what_the_sandbox_forbids(serving: Installed, which: str) -> None:
    """The unit's own text, with a probe in the place of the program."""
    unit = UNITS[which]
    text = serving.run(f"cat /lib/systemd/system/{unit}").out
    dropped = (
        "ExecStart",
        "ExecReload",
        "Type=",
        "Sockets=",
        "Standard",
        "Restart",
        "WatchdogSec",
        "Requires=",
        "Wants=",
    )
    kept = [line for line in text.splitlines() if not line.startswith((*dropped, "[Install]", "WantedBy"))]
    lines = "\n".join(kept).replace(
        "[Service]",
        "[Service]\nType=oneshot\nStandardOutput=file:/run/probe\n"
        "ExecStart=/usr/bin/python3 -I /usr/local/lib/probe.py",
    )
    serving.write("/usr/local/lib/probe.py", PROBE)
    serving.write("/etc/systemd/system/probe.service", lines)
    serving.run("rm -f /run/probe; systemctl daemon-reload; systemctl start probe.service")
    found = json.loads(serving.run("cat /run/probe").out)
    assert found.pop("writable") == WRITABLE[which]
    assert (found.pop("uid") == 0) == (which == "rotated")
    assert found.pop("inet") == (which == "fetch")
    assert found.pop("sees_other_processes") == (which != "fetch"), "grants by unit and systemctl need it"
    assert found == dict.fromkeys(found, False), "nothing else may be possible"
