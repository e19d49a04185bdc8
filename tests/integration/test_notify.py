"""What systemd is told (sd_notify(3)), on a real datagram socket."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

from agent.core.errors import Failure, Fault, Step
from agent.serve.host.notify import Systemd
from lab.testbed.fakes.fetch_server import World
from lab.testbed.running import Agent, fake_configuration

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GRANT = '[[grant]]\nuser = "root"\nsecrets = ["*"]\n'


def test_readiness_status_reload_watchdog_and_end(tmp_path: Path) -> None:
    """Ready when the first reading has ended; a reload ends with its reading; the watchdog is fed."""
    world = World()
    world.put("A", b"canary")
    world.failure = Failure(Step.BARBICAN, Fault.TRANSIENT, "to read the container", "wait", 503)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(90)
        told: list[str] = []

        def until(*words: str) -> str:
            """Read on until a message carries all of the words; return it."""
            while True:
                told.append(systemd.recv(65536).decode())
                if all(word in told[-1] for word in words):
                    return told[-1]

        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with Agent(lambda directory: fake_configuration(directory, world, GRANT)[1], environ) as agent:
            agent.start()
            failed = until("STATUS=starting", "Barbican failed (HTTP 503)")
            assert "READY=1" in failed, "the start is over, or apt would wait for Barbican (docs/adr/0005)"
            world.failure = None
            assert "READY=1" not in until("STATUS=ready, confirmed 0 s ago; generation ", ", 1 secrets")
            until("WATCHDOG=1", "STATUS=ready, confirmed 2 s ago; ", ", 1 secrets; next reading in")
            agent.signal(signal.SIGHUP)
            until("RELOADING=1", "MONOTONIC_USEC=")
            until("READY=1")
            agent.signal(signal.SIGTERM)
            assert "ready" not in until("STOPPING=1", "STATUS=")
            assert agent.process is not None
            assert agent.process.wait(20) == 0
        assert ("canary" in "".join(told)) is False


def test_a_status_in_any_script_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were it dropped, READY=1 would be too: systemd would wait in vain."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        agent = Systemd()
        agent.waiting("https://… ключ")
        assert systemd.recv(4096).decode() == "STATUS=https://… ключ\nREADY=1"


async def test_a_stuck_agent_is_not_said_to_be_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status goes on, the watchdog gets nothing until it moves again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)  # noqa: FBT003  # socket's own signature
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "20000")
        stuck = [True]
        beating = asyncio.create_task(Systemd().beat(lambda: "as it is", lambda: stuck[0]))
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(systemd, 4096), 20) == b"STATUS=as it is"
        assert await asyncio.wait_for(loop.sock_recv(systemd, 4096), 20) == b"STATUS=as it is"
        stuck[0] = False
        async with asyncio.timeout(20):
            while await loop.sock_recv(systemd, 4096) != b"WATCHDOG=1\nSTATUS=as it is":
                pass
        beating.cancel()
