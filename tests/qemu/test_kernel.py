"""What only a kernel with all its controllers shows: swap, memory limits, and memory without memfd_secret."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.system.installed import AGENT, VALUES
from tests.system.scan import forms, found

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.qemu.guest import Guest

pytestmark = pytest.mark.timeout(1200)

KINDS = {"bookworm": "memfd", "trixie": "memfd_secret"}
"""Debian 12's kernel has memfd_secret switched off, Debian 13's has it."""
SLICE = "/sys/fs/cgroup/system.slice"
HOLDER = """import sys, time
held = bytes.fromhex(sys.argv[1]) * 400_000
print(len(held), flush=True)
time.sleep(9999)"""


@pytest.fixture
def drop_in(serving: Guest) -> Iterator[DropIn]:
    """Settings for a unit, taken away again."""
    made = DropIn(serving)
    yield made
    made.undo()


class DropIn:
    """Changes units of the guest for one test."""

    def __init__(self, machine: Guest) -> None:
        self._machine = machine

    def __call__(self, unit: str, settings: str) -> None:
        """Add settings to [Service]; they hold from the unit's next start."""
        self._machine.write(f"/etc/systemd/system/{unit}.d/test.conf", f"[Service]\n{settings}\n")
        self._machine.run("systemctl daemon-reload")

    def undo(self) -> None:
        """Take all away; the agent serves as before."""
        self._machine.run(
            f"rm -f /etc/systemd/system/*.d/test.conf; systemctl daemon-reload; systemctl restart {AGENT}"
        )
        self._machine.until(lambda: self._machine.status().get("state") == "ready")


def _reclaim(machine: Guest, group: str) -> None:
    """Have the kernel swap out whatever it may; it says "again" where there is no more."""
    machine.run(f"for i in 1 2 3; do echo 400M >{group}/memory.reclaim; done 2>/dev/null", check=False)


def test_kind_of_memory(serving: Guest, debian: str) -> None:
    """It is told, and kept: the unit's memory.swap.max is 0 or the file can't be swapped at all."""
    memory = serving.status()["memory"]
    assert (memory["kind"], memory["kept"], memory["unswappable"]) == (KINDS[debian], True, True)
    assert serving.run(f"cat {SLICE}/{AGENT}/memory.swap.max").out.strip() == "0"


def test_memory_that_could_be_swapped_is_not_kept(serving: Guest, debian: str, drop_in: DropIn) -> None:
    """Without MemorySwapMax=0 a plain memfd is not given to systemd: mlock would end with the process."""
    drop_in(AGENT, "MemorySwapMax=infinity")
    serving.run(f"systemctl stop {AGENT}; systemctl start {AGENT}")
    memory = serving.status()["memory"]
    if debian == "trixie":
        assert memory["kept"] is True
    else:
        assert memory["kept"] is False
        assert "swapped" in memory["whyNotKept"]


def test_no_value_is_swapped(serving: Guest, drop_in: DropIn) -> None:
    """Under pressure, alive and killed, nothing reaches the swap space; what another program holds does."""
    control = b"control-" + os.urandom(12).hex().encode()
    drop_in(AGENT, "RestartSec=1h")
    serving.run(f"systemctl restart {AGENT}")
    serving.run(f"systemd-run --unit control python3 -c '{HOLDER}' {control.hex()}")
    serving.until_said(str(400_000 * len(control)), "--unit", "control")
    _reclaim(serving, f"{SLICE}/control.service")
    for name, value in VALUES.items():
        assert serving.reads(name, value)
    _reclaim(serving, f"{SLICE}/{AGENT}")
    serving.kill()
    # systemd alone holds the memory now, and the process that had locked it is gone
    _reclaim(serving, SLICE)
    _reclaim(serving, "/sys/fs/cgroup/init.scope")
    assert serving.show(AGENT, "SubState") == "auto-restart"
    # not "start": systemd 252 leaves that queued until RestartSec is over (service_start, EAGAIN)
    serving.run(f"systemctl restart {AGENT}")
    serving.until(lambda: serving.reads("JWT_SECRET", VALUES["JWT_SECRET"]))
    serving.run("systemctl stop control; journalctl --sync; sync")
    assert found(serving.swap, control) == 1, "the scan does not find what was swapped"
    secret = serving.cloud.runtime[serving.vps.vps_id].credential.secret
    for value in (*VALUES.values(), secret.encode()):
        assert found(serving.swap, *forms(value)) == 0, "a value is in the swap space"
        assert found(serving.image, *forms(value)) == 0, "a value is on the disk"


def test_a_memory_limit_that_is_too_small(serving: Guest, drop_in: DropIn) -> None:
    """The kernel kills the agent: sockets and secrets stay, the journal says why, mending it is enough."""
    generation = serving.status()["generation"]
    drop_in(AGENT, "MemoryMax=12M")  # systemd applies it to the running process
    serving.run(f"systemctl kill --signal KILL {AGENT}")
    serving.until_said("oom-kill", "--unit", AGENT)
    assert serving.show("vps-secrets-app.socket", "ActiveState") == "active"
    drop_in.undo()
    assert serving.status()["generation"] == generation
    assert serving.reads("JWT_SECRET", VALUES["JWT_SECRET"])


def test_a_reading_that_needs_more_memory_than_it_may(serving: Guest, drop_in: DropIn) -> None:
    """It is killed; the agent says at which step, and serves on."""
    drop_in("vps-secrets-fetch@.service", "MemoryMax=12M")
    refused = serving.run("vps-secrets refresh", check=False)
    assert refused.code == 1
    assert "fetch" in refused.err + refused.out
    assert serving.status()["failure"]["step"] == "fetch process"
    serving.until_said("oom-kill", "--unit", "vps-secrets-fetch@*")
    assert serving.reads("JWT_SECRET", VALUES["JWT_SECRET"])


@pytest.mark.parametrize("step", ["+3 days", "-3 days"])
def test_a_clock_that_jumps(serving: Guest, step: str) -> None:
    """Ages, staleness and the next reading are on the boot clock: nothing is dropped and a reading works."""
    before = serving.status()
    serving.run(f'date --set "{step}" >/dev/null')
    after = serving.status()
    assert after["state"] == "ready"
    assert abs(after["confirmedAge"] - before["confirmedAge"]) < 600
    assert after["nextAttemptIn"] < 1000, "within the poll interval and its jitter"
    told = serving.run("vps-secrets refresh", check=False)
    back = "-" if step.startswith("+") else "+"
    serving.run(f'date --set "{back}{step[1:]}" >/dev/null')
    assert told.code == 0, told
    assert serving.reads("JWT_SECRET", VALUES["JWT_SECRET"])
