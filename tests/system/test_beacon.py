"""The beacon on a booted machine: watched in the sandbox of fetch, and a touch reaches the application."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deployer.cloud.beacon import touch_file
from lab.testbed.fakes.nginx import Nginx
from tests.system.installed import AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.installed import Installed

INSTANCES = "systemctl list-units --plain --no-legend --state=running 'vps-secrets-fetch@*'"


@pytest.fixture
def nginx() -> Iterator[Nginx]:
    """A real nginx on the loopback address, which machine and host share."""
    with Nginx() as made:
        touch_file(made.file)
        yield made


def instances(machine: Installed) -> list[str]:
    """Return the fetch processes that run."""
    return [line.split()[0] for line in machine.run(INSTANCES).out.splitlines()]


def state(machine: Installed) -> str:
    """Return the state of the watch."""
    beacon = machine.status().get("beacon") or {}
    return str(beacon.get("state"))


def until_watched(machine: Installed, nginx: Nginx) -> str:
    """Wait until one process looks again and again; return its unit."""
    looks = nginx.log.read_text().count(" 304 ")
    machine.until(lambda: nginx.log.read_text().count(" 304 ") >= looks + 3)
    machine.until(lambda: state(machine) == "watching" and len(instances(machine)) == 1)
    return instances(machine)[0]


def test_a_touch_is_noticed(own: Installed, nginx: Nginx) -> None:
    """One process looks for long; it is replaced when it dies, and goes when the agent goes."""
    own.write("/root/beacon", f'[beacon]\nurl = "{nginx.url}"\ninterval = "1s"\n')
    own.run(f"cat /root/beacon >>/etc/vps-secrets-agent/agent.toml; systemctl reload {AGENT}")
    unit = until_watched(own, nginx)
    hours = own.show(unit, "RuntimeMaxUSec")
    assert re.fullmatch(r"1h 15min", hours), "systemd lets it live for as long as serve asks: 66 minutes"
    resident = re.search(
        r"VmRSS:\s+(\d+) kB", Path(f"/proc/{own.host_pid(own.pid(unit))}/status").read_text()
    )
    assert resident is not None
    assert int(resident[1]) < 64 * 1024

    value = b"canary-7d1e40-rotated"
    own.cloud.deployment.rotate(own.vps, {"JWT_SECRET": value})
    touch_file(nginx.file)
    own.until(lambda: own.reads("JWT_SECRET", value))
    assert own.status()["beacon"]["events"]["change"] == 1

    watcher = until_watched(own, nginx)
    own.run(f"systemctl kill --signal=KILL {watcher}")
    own.until_said("nothing that is served depends on it", "--unit", AGENT)
    own.until_said("the beacon is seen again", "--unit", AGENT)
    before = until_watched(own, nginx)
    own.kill()
    own.until(lambda: before not in instances(own))
    until_watched(own, nginx)
    own.run(f"systemctl stop vps-secrets-app.socket vps-secrets-control.socket {AGENT}")
    own.until(lambda: instances(own) == [])
    told = own.messages("--unit", AGENT, "--unit", "vps-secrets-fetch@*")
    assert "Traceback" not in told
    assert own.run("systemctl --failed --no-legend").out == ""
