"""Clients at full speed inside a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.installed import USER

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable

    from lab.testbed.machine import Machine

PROGRAM = Path(__file__).parent / "load_inside.py"


def clients(machine: Machine, seconds: int) -> list[subprocess.Popen[str]]:
    """Start four, which read until the time is up or there is a file /tmp/stop."""
    machine.run("rm -f /tmp/stop")
    machine.write("/usr/local/lib/load.py", PROGRAM.read_text())
    return [
        machine.start("runuser", "-u", USER, "--", "python3", "/usr/local/lib/load.py", kind, str(seconds))
        for kind in ("keep", "new", "keep", "new")
    ]


def results(started: Iterable[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Return what each has counted, once all have ended."""
    return [_result(client) for client in started]


def _result(client: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    return result
