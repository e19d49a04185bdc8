"""Whether systemd keeps what it is given: it tells nobody when it does not."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.serve.host.fdstore import DescriptorStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd reads from."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as made:
        made.bind(str(tmp_path / "notify"))
        yield made


async def _next(systemd: socket.socket) -> tuple[str, list[int]]:
    """Return what arrives next, and its descriptors."""
    async with asyncio.timeout(20):
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(systemd, 4096, 1)
            except BlockingIOError:
                await asyncio.sleep(0.01)
            else:
                return message.decode(), fds


async def _until_checked(systemd: socket.socket, store: DescriptorStore) -> int:
    """Handle the barrier, as systemd does once all before is handled; return what was to be kept."""
    checking = asyncio.create_task(store.check())
    probe, (kept,) = await _next(systemd)
    assert probe.startswith("FDSTORE=1")
    assert store.works is False, "nobody knows yet"
    barrier, (handled,) = await _next(systemd)
    assert barrier == "BARRIER=1"
    os.close(handled)
    await checking
    return kept


async def test_what_is_kept_stays_open(systemd: socket.socket) -> None:
    """The question is taken back after a while."""
    store = DescriptorStore()
    kept = await _until_checked(systemd, store)
    assert store.works
    text, _ = await _next(systemd)
    assert text.startswith("FDSTOREREMOVE=1")
    assert store.works
    os.close(kept)
    await asyncio.sleep(0.05)
    assert store.works
    store.close()


async def test_a_refusal_may_come_late(systemd: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    """From systemd 254 on what is refused is closed in a thread: the barrier can be handled before."""
    store = DescriptorStore()
    kept = await _until_checked(systemd, store)
    os.close(kept)
    text, _ = await _next(systemd)
    assert text.startswith("FDSTOREREMOVE=1")
    assert store.works is False
    assert "descriptor store is absent or full" in caplog.text
    store.close()


async def test_the_question_is_taken_back_at_an_end(systemd: socket.socket) -> None:
    """Else the next process would inherit it."""
    store = DescriptorStore()
    os.close(await _until_checked(systemd, store))
    store.close()
    assert (await _next(systemd))[0].startswith("FDSTOREREMOVE=1")
