"""deployer/notifying.py, with a socket as systemd's; a full, missing or strange one ends nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from deployer import notifying

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("abstract", [False, True])
def test_a_state_arrives(*, abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a path, and by a name of the abstract kind."""
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{path}" if abstract else path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{path}" if abstract else path)
        notifying.tell(notifying.READY)
        assert systemd.recv(100) == b"READY=1"
        for _ in range(10_000):  # more than it has room for
            notifying.tell(notifying.ALIVE)


def test_without_systemd_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address, and one where nobody is."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifying.tell(notifying.READY)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notifying.tell(notifying.READY)


@pytest.mark.parametrize(("said", "every"), [("30000000", 15.0), (None, None), ("", None), ("x", None)])
def test_the_watchdog_is_fed_twice_within_its_time(
    said: str | None, every: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if said is not None:
        monkeypatch.setenv("WATCHDOG_USEC", said)
    assert notifying.beat_s() == every
