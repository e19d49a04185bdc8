"""A memory that survives: kills, restarts and upgrades with Keystone and Barbican away, under load."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.installed import AGENT, ROOT, VALUES
from tests.system.load import clients, results

if TYPE_CHECKING:
    from tests.system.installed import Installed

IN_FLIGHT = {"ConnectionResetError", "RemoteDisconnected", "BrokenPipeError", "IncompleteRead"}
_SYS_PIDFD_GETFD = 438


def _clouds_away(machine: Installed) -> None:
    for service in ("barbican", "keystone"):
        machine.cloud.testbed.kill(service)


def _serves_all(machine: Installed) -> None:
    for name, value in VALUES.items():
        assert machine.reads(name, value)


def test_it_serves_on_after_every_end_with_the_cloud_away(own: Installed) -> None:
    """Kill -9, the watchdog, a restart (upgrades: test_upgrade.py); ``systemctl stop`` forgets."""
    own.write(f"/etc/systemd/system/{AGENT}.d/watchdog.conf", "[Service]\nWatchdogSec=1\n")
    own.run(f"systemctl daemon-reload; systemctl restart {AGENT}")
    _clouds_away(own)
    generation = own.status()["generation"]
    assert own.status()["memory"]["kept"] is True

    own.kill()
    _serves_all(own)

    former = own.pid()
    own.run(f"kill -STOP {former}")
    own.until(lambda: own.pid() not in {0, former})
    _serves_all(own)
    assert "watchdog" in own.messages("--unit", AGENT).lower()

    own.run(f"systemctl restart {AGENT}")
    _serves_all(own)

    assert own.status()["generation"] == generation

    own.run(f"systemctl stop {AGENT}; systemctl start {AGENT}")
    assert own.status()["state"] == "starting"
    assert own.digest("JWT_SECRET") == ""


def test_a_damaged_snapshot_is_refused_whole(own: Installed) -> None:
    """One flipped bit in what systemd keeps: said in the journal and in status, and read again."""
    _flip_a_bit(own.host_pid(own.pid()))
    own.kill()
    own.until_said("damaged", "--unit", AGENT)
    own.until(lambda: own.status()["state"] == "ready")
    _serves_all(own)
    assert any("damaged" in warning for warning in own.status()["warnings"])


def test_without_a_descriptor_store_it_says_so(own: Installed) -> None:
    """Absent or full, a restart reads everything again, and status says why."""
    for most in (0, 1):
        own.write(f"/etc/systemd/system/{AGENT}.d/store.conf", f"[Service]\nFileDescriptorStoreMax={most}\n")
        own.run(f"systemctl daemon-reload; systemctl stop {AGENT}; systemctl start {AGENT}")
        own.until(lambda: own.status()["state"] == "ready")
        if most == 0:
            own.until(lambda: own.status()["memory"]["kept"] is False)  # systemd may refuse late
            assert "descriptor store" in own.status()["memory"]["whyNotKept"]
        own.kill()
        own.until(lambda: own.status()["state"] == "ready")
        _serves_all(own)


def test_another_vps_gets_nothing_of_it(own: Installed) -> None:
    """The snapshot of the former VPS id is refused when the configuration names another."""
    own.run(f"sed -i 's/{own.vps.vps_id}/vps-prod-009/' /etc/vps-secrets-agent/agent.toml")
    own.run(f"systemctl restart {AGENT}")
    assert "another VPS" in own.messages("--unit", AGENT)
    assert own.digest("JWT_SECRET") == ""


def test_no_request_is_lost(serving: Installed, rootfs: Path) -> None:
    """Twenty restarts, a reload and a reinstallation under four clients at full speed."""
    started = clients(serving, 600)
    for _ in range(20):
        serving.run(f"systemctl restart {AGENT}")
        _serves_all(serving)
    serving.run(f"systemctl reload {AGENT}; apt-get install --yes --reinstall /debs/vps-secrets-agent_*.deb")
    serving.run("touch /tmp/stop")
    ended = results(started)
    for result in ended:
        assert result["failed"] == {}, result
        assert result["requests"] > 20, "beside all of it"
    _note("restarts", rootfs, ended)


def test_a_killed_agent_is_back(serving: Installed, rootfs: Path) -> None:
    """Of a hundred kills only requests in flight fail, and the next one is answered; sockets stay.

    How soon is in docs/figures.md.
    """
    started = clients(serving, 600)
    serving.until(lambda: serving.reads("DATABASE_URL", VALUES["DATABASE_URL"]))
    waits = []
    for _ in range(100):
        serving.kill()
        began = time.monotonic()
        assert serving.reads("DATABASE_URL", VALUES["DATABASE_URL"])
        waits.append(time.monotonic() - began)
    serving.run("touch /tmp/stop")
    ended = results(started)
    for result in ended:
        # one request in flight per client and kill, and none that was not in flight
        assert set(result["failed"]) <= IN_FLIGHT, result
        assert sum(result["failed"].values()) <= 100
    waits.sort()
    shown = {f"p{p}": round(waits[p - 1], 3) for p in (50, 90, 99, 100)}
    _note("kill-9", rootfs, {"answered after (s)": shown, "clients": ended})
    assert serving.show("vps-secrets-app.socket", "ActiveState") == "active"


def _note(what: str, rootfs: Path, figures: object) -> None:
    """Leave figures for docs/figures.md."""
    directory = ROOT / "build" / "figures"
    directory.mkdir(exist_ok=True)
    (directory / f"{what}-{rootfs.name}.json").write_text(json.dumps(figures, indent=1))


def _flip_a_bit(pid: int) -> None:
    """Change the last payload byte in the agent's snapshot, which systemd keeps too."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    flipped = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if not str(entry.readlink()).startswith(("/secretmem", "/memfd:vps-secrets")):
            continue
        fd = libc.syscall(_SYS_PIDFD_GETFD, pidfd, int(entry.name), 0)
        with mmap.mmap(fd, os.fstat(fd).st_size) as mapping:
            place = mapping.find(VALUES["JWT_SECRET"])
            if place >= 0:
                mapping[place] ^= 1
                flipped += 1
        os.close(fd)
    os.close(pidfd)
    assert flipped == 1
