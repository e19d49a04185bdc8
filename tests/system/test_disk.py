"""Nothing on disk: every door is used on a machine whose disk is one image, then no value is found in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lab.testbed.machine import image_of
from tests.system.installed import AGENT, VALUES, booted, set_up
from tests.system.scan import forms, found
from tests.system.writes import Writes

if TYPE_CHECKING:
    from lab.testbed.cloud import Cloud
    from tests.system.installed import Installed

GRANT = '\n[[grant]]\nunit = "consumer.service"\nsecrets = ["*"]\n'
LOAD = "--property LoadCredential=JWT_SECRET:/run/vps-secrets/credentials.sock"
ROTATED = {name: b"canary-later-" + os.urandom(8).hex().encode() for name in VALUES}


def _written(machine: Installed) -> int:
    """Return how many bytes the agent caused to be written to disks (proc(5), io)."""
    text = Path(f"/proc/{machine.host_pid(machine.pid())}/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["write_bytes"])


def _use_everything(machine: Installed) -> None:
    """Read through every door, rotate, refuse, crash, restart and upgrade."""
    machine.write("/root/grant", GRANT)
    machine.run(f"cat /root/grant >>/etc/vps-secrets-agent/agent.toml; systemctl reload {AGENT}")
    for values in (VALUES, ROTATED):
        machine.cloud.deployment.rotate(machine.vps, values)
        machine.refresh()
        for name, value in values.items():
            assert machine.reads(name, value)
        machine.run(f"systemd-run --quiet --wait --collect --unit consumer {LOAD} true")
        machine.run(f"systemd-run --quiet --wait --collect --unit other {LOAD} true", check=False)
        machine.run("vps-secrets status; vps-secrets list; vps-secrets explain JWT_SECRET", check=False)
        assert _written(machine) == 0
        for signal in ("KILL", "SEGV"):  # the second asks for a core
            machine.run(f"kill -{signal} {machine.pid()}")
            assert machine.reads("JWT_SECRET", values["JWT_SECRET"])
            machine.until(lambda: machine.status().get("state") == "ready")
    machine.run(f"systemctl restart {AGENT}; apt-get install --yes --reinstall /debs/vps-secrets-agent_*.deb")
    machine.cloud.testbed.kill("barbican")
    machine.run("vps-secrets refresh", check=False)
    assert machine.reads("JWT_SECRET", ROTATED["JWT_SECRET"])
    assert _written(machine) == 0


def _leave_traces(machine: Installed, deleted: bytes, dumped: bytes) -> None:
    """Write a value and delete the file; hold another one and crash with a core."""
    write = 'import sys; open("/root/gone", "wb").write(bytes.fromhex(sys.argv[1]))'
    machine.run(f"python3 -c '{write}' {deleted.hex()}; sync; rm /root/gone; sync")
    hold = "import os, sys; held = bytes.fromhex(sys.argv[1]); os.abort()"
    machine.run(f"cd /root; ulimit -c unlimited; python3 -c '{hold}' {dumped.hex()}; sync", check=False)


def test_no_value_reaches_the_disk(rootfs: Path, deb: Path, own_cloud: Cloud) -> None:
    """Neither values nor the credential are in the raw image; what a deleted file and a core held is."""
    controls = [b"control-" + os.urandom(12).hex().encode() for _ in range(2)]
    with image_of(rootfs) as image:
        with contextlib.ExitStack() as stack:
            machine = stack.enter_context(booted(image, deb))
            machine.run("mkdir /var/log/journal; journalctl --flush")
            set_up(machine, own_cloud, "vps-prod-001")
            with Writes(Path(f"/proc/{machine.leader}/root")) as writes:
                _use_everything(machine)
                _leave_traces(machine, *controls)
            machine.run("journalctl --sync")
            exported = machine.run("journalctl --output export | cat -v").out
            secret = own_cloud.runtime["vps-prod-001"].credential.secret
        for value in (*VALUES.values(), *ROTATED.values(), secret.encode()):
            assert value.decode() not in exported
            assert found(image, *forms(value)) == 0, "a value is on the disk"
        assert found(image, *controls) == 2, "the scan does not find what is there"
    units = {unit for unit, _ in writes.seen}
    assert any(path.endswith("/root/gone") for _, path in writes.seen), "the watch does not see it"
    assert [unit for unit in units if unit.startswith("vps-secrets")] == []
