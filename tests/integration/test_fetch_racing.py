"""The real fetch program in a mount namespace of its own, where a name has several addresses, some dead.

A connection to a dead one hangs, as behind a firewall that drops. The time-outs are such that trying one
address after the other could not come to an end within the cycle. The name is that of loopback, where plain
HTTP is allowed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Fault, Step
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud
from lab.testbed.fakes.dead import DeadAddresses
from lab.testbed.fakes.fetching import configure
from lab.testbed.fakes.watching import configuration, look

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="a mount namespace needs root")

NAME, LIVE = "localhost", "127.0.0.3"
DEAD = ("::1", "127.0.0.1", "127.0.0.2")
WAITS = '[fetch]\nconnect_timeout = "25s"\ntimeout = "60s"\n'


def with_hosts(directory: Path, hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that runs another where NAME has these addresses."""
    file = directory / "hosts"
    file.write_text("".join(f"{host} {NAME}\n" for host in hosts))
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", script, "sh", str(file))


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud at the last of a name's addresses."""
    with FakeCloud(host=LIVE) as made:
        yield made


def resolved(prefix: tuple[str, ...]) -> list[str]:
    """Return the addresses in the order in which the system gives them there."""
    program = (
        f"import socket; print(*(a[4][0] for a in socket.getaddrinfo('{NAME}', 1, type=socket.SOCK_STREAM)))"
    )
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_dead_addresses_cost_neither_the_values_nor_the_cycle(cloud: FakeCloud, tmp_path: Path) -> None:
    """Three of four are dead, in both families and before the living one."""
    made = [cloud.add(f"{VPS}/S{number}") for number in range(3)]
    prefix = with_hosts(tmp_path, (*DEAD, LIVE))
    assert resolved(prefix) == [*DEAD, LIVE]
    fetch = replace(configure(cloud, tmp_path, WAITS), prefix=prefix)
    with (
        DeadAddresses(DEAD, cloud.servers["keystone"].server_port),
        DeadAddresses(DEAD, cloud.servers["barbican"].server_port),
    ):
        ran = fetch(timeout=60.0)
        assert sorted(ran.reading.read) == sorted(secret.version for secret in made)
        quiet = fetch(known=frozenset(ran.reading.read), token_state=ran.reply.token_state, timeout=60.0)
        assert quiet.calls == {"keystone": 0, "barbican": 1}


def test_a_beacon_with_dead_addresses(cloud: FakeCloud, tmp_path: Path) -> None:
    """It is looked at over the address that lives, in each process of its own."""
    server = cloud.servers["barbican"]
    cloud.faults["/beacon"] = faults.content(b"one", "text/plain")
    config = configuration(tmp_path, f"{server.address}/beacon")
    config.write_text(config.read_text().replace('"2s"', '"12s"'))
    with DeadAddresses(DEAD, server.server_port):
        assert look(config, prefix=with_hosts(tmp_path, (*DEAD, LIVE))).seen.startswith("sha256:")


def test_a_service_whose_addresses_are_all_dead(cloud: FakeCloud, tmp_path: Path) -> None:
    """One time-out for all of them, well before the cycle's: what failed is told."""
    prefix = with_hosts(tmp_path, DEAD)
    extra = '[fetch]\nconnect_timeout = "2s"\ntimeout = "60s"\n'
    fetch = replace(configure(cloud, tmp_path, extra), prefix=prefix)
    with DeadAddresses(DEAD, cloud.servers["keystone"].server_port):
        ran = fetch(timeout=60.0)
    assert (ran.failure.step, ran.failure.fault) == (Step.CONNECTION, Fault.TRANSIENT)
    assert "no answer in time" in ran.failure.advice
    assert NAME in ran.failure.tried
