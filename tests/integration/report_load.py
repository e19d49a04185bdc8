"""Ever so many records for ``vps-secrets-deploy report``: ``-m tests.integration.report_load 1000000``.

They are of 100 VPSs with seven secrets each over five weeks, as journalctl prints them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from lab.testbed.deployer import PYTHON, Api
from lab.testbed.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VPSES: Final = 100
SECRETS: Final = 7
SPAN_S: Final = 35 * 86400.0
AT_ONCE: Final = 1000


class Cost(NamedTuple):
    """What a report cost: seconds of CPU, and its most memory (MB). ``page`` is what it printed."""

    cpu_s: float
    memory_mb: float
    page: str


def records(number: int, until: float) -> Iterator[bytes]:
    """Yield them, a thousand lines at a time; the last is written at ``until`` (Unix time, s)."""
    rest = [_rest(vps, secret) for vps in range(VPSES) for secret in range(SECRETS)]
    for first in range(0, number, AT_ONCE):
        yield b"".join(
            b'{"__REALTIME_TIMESTAMP": "%d", ' % ((until - SPAN_S * (1 - each / number)) * 1e6)
            + rest[each % len(rest)]
            for each in range(first, min(first + AT_ONCE, number))
        )


def _rest(vps: int, secret: int) -> bytes:
    entry = {
        "_HOSTNAME": f"vps-prod-{vps:03}",
        "_SYSTEMD_UNIT": "vps-secrets-agent.service",
        "MESSAGE": f"served: GET /v1/secrets/SECRET_{secret} by uid 1000 (pid 4321) at the app socket (200)",
        "VPS_SECRETS_OUTCOME": "served",
        "VPS_SECRETS_DOOR": "app",
        "VPS_SECRETS_UID": "1000",
        "VPS_SECRETS_GID": "1000",
        "VPS_SECRETS_PID": "4321",
        "VPS_SECRETS_METHOD": "GET",
        "VPS_SECRETS_ACTION": "read",
        "VPS_SECRETS_STATUS": "200",
        "VPS_SECRETS_NAME": f"SECRET_{secret}",
        "VPS_SECRETS_VERSION": f"00000000-0000-4000-8000-{vps:06}{secret:06}",
        "VPS_SECRETS_GENERATION": "1795000000000",
        "VPS_SECRETS_GRANT": "1",
        "_UID": "998",
        "_GID": "998",
        "_PID": "1234",
        "_TRANSPORT": "journal",
        "_BOOT_ID": "0" * 32,
        "_MACHINE_ID": f"{vps:032}",
        "SYSLOG_IDENTIFIER": "vps-secrets-agent",
    }
    return json.dumps(entry)[1:].encode() + b"\n"


MEASURE: Final = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
"""Runs a command and measures it, from a small process: its most memory counts that of whoever forks it."""


def cost(number: int, socket: Path, *options: str) -> Cost:
    """Make a report of so many records."""
    report = [PYTHON, "-m", "deployer.cli", "report", "--socket", str(socket), *options]
    command = [PYTHON, "-c", MEASURE, *report]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as made,
    ):
        assert made.stdin is not None
        assert made.stdout is not None
        with made.stdin:
            for some in records(number, time.time()):
                made.stdin.write(some)
        page = made.stdout.read().decode()
        assert made.wait() == 0
        errors.seek(0)
        cpu_s, kilobytes = errors.read().split()[-2:]
    return Cost(float(cpu_s), int(kilobytes) / 1024, page)


if __name__ == "__main__":
    wanted = int(sys.argv[1])
    with Api() as api:
        found = cost(wanted, api.socket)
    speed = wanted / found.cpu_s
    sys.stdout.write(f"{wanted} records: {speed:.0f} a second of CPU, {found.memory_mb:.0f} MB at most\n")
