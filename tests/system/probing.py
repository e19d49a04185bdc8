"""What the restrictions of a unit forbid, tried from inside it: what scores well may still not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.testbed.machine import Machine

PROBE = (Path(__file__).parent / "probe_inside.py").read_text()
DROPPED = (
    "ExecStart",
    "ExecReload",
    "Type=",
    "Sockets=",
    "Standard",
    "Restart",
    "WatchdogSec",
    "Wants=",
    "PartOf=",
    "Condition",
)


def possible_in(machine: Machine, unit: str, places: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return what is possible in the unit: its own text, with a probe in the place of the program.

    ``places``: paths of the probe, and what to try in their place.
    """
    lines = machine.run(f"cat /lib/systemd/system/{unit}").out.splitlines()
    kept = [line for line in lines if not line.startswith((*DROPPED, "[Install]", "WantedBy"))]
    text = "\n".join(kept).replace(
        "[Service]",
        "[Service]\nType=oneshot\nStandardOutput=file:/run/probe\n"
        "ExecStart=/usr/bin/python3 -I /usr/local/lib/probe.py",
    )
    probe = PROBE
    for path, other in (places or {}).items():
        assert path in probe
        probe = probe.replace(path, other)
    machine.write("/usr/local/lib/probe.py", probe)
    machine.write("/etc/systemd/system/probe.service", text)
    machine.run("rm -f /run/probe; systemctl daemon-reload; systemctl start probe.service")
    found: dict[str, Any] = json.loads(machine.run("cat /run/probe").out)
    return found
