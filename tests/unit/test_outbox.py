"""What leaves the process never waits, keeps its order, and is bounded; with real sockets that are full."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from agent.serve.host import logs, outbox
from agent.serve.host.fdstore import DescriptorStore
from agent.serve.host.journal import JournalSocket, StandardError
from agent.serve.host.notify import Notice, Systemd
from agent.serve.host.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket that reads when it is asked to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "socket"))
        made.settimeout(0)
        yield made


def _read(reader: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            message, fds, *_ = socket.recv_fds(reader, 65536, 4)
            found.append(message)
            for fd in fds:
                os.close(fd)
    return found


def _fill(box: Outbox[bytes]) -> int:
    count = 0
    while box.send(b"%d" % count):
        count += 1
    return count


@pytest.fixture
def box(tmp_path: Path, reader: socket.socket) -> Iterator[Outbox[bytes]]:
    """An outbox whose sink has no room; ``0``, ``1``, … are in it."""
    del reader
    sink = JournalSocket(str(tmp_path / "socket"))
    made = Outbox(sink)
    _fill(made)
    yield made
    sink._socket.close()


async def test_what_is_posted_and_what_is_awaited_leave_in_order(
    box: Outbox[bytes], reader: socket.socket
) -> None:
    """As soon as there is room; nothing overtakes."""
    assert box.post(b"posted")
    awaited = asyncio.create_task(box.deliver(b"awaited"))
    await asyncio.sleep(0)
    assert not box.send(b"too early")
    assert box.refused_since is not None
    found = _read(reader)
    assert await awaited
    found += _read(reader)
    assert found == [b"%d" % at for at in range(len(found) - 2)] + [b"posted", b"awaited"]
    assert box.send(b"now")
    assert box.refused_since is None


async def test_what_is_awaited_in_vain_never_leaves(
    box: Outbox[bytes], reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that nobody waits: the next is refused at once. A caller that leaves withdraws its message."""
    left = asyncio.create_task(box.deliver(b"left"))
    await asyncio.sleep(0)
    left.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await left
    monkeypatch.setattr(outbox, "PATIENCE_S", 0.05)
    assert not await box.deliver(b"in vain")
    assert box.fails
    assert not await box.deliver(b"at once")
    assert box.reason
    found = _read(reader)
    assert box.post(b"after")
    found += _read(reader)
    assert found[-1] == b"after"
    assert not {b"left", b"in vain", b"at once"} & set(found)


async def test_what_is_posted_is_bounded(box: Outbox[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no place is counted."""
    monkeypatch.setattr(outbox, "MAX_POSTED", 3)
    assert [box.post(b"x") for _ in range(5)] == [True, True, True, False, False]
    assert box.lost == 2


def test_a_socket_that_is_made_anew_is_found(tmp_path: Path) -> None:
    """Nothing is connected to the one before, be it closed or full."""
    path = tmp_path / "socket"
    sink = JournalSocket(str(path))
    box = Outbox(sink)
    assert not box.send(b"nobody")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as full:
        full.bind(str(path))
        _fill(box)
        path.unlink()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as new:
            new.bind(str(path))
            assert box.send(b"new")
            assert new.recv(100) == b"new"
    assert not box.send(b"closed")
    sink._socket.close()


async def test_systemd_gets_that_it_is_ready_although_it_did_not_read(
    tmp_path: Path, reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told once comes later; what is told again and again is left out."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    systemd = Systemd()
    while systemd._outbox.send(Notice("STATUS=full")):
        pass
    systemd.cycle_ended("ready")
    found: list[bytes] = []
    async with asyncio.timeout(20):
        while b"STATUS=ready\nREADY=1" not in found:
            found += _read(reader)
            await asyncio.sleep(0.01)


async def test_a_file_that_systemd_never_got_is_not_given_to_it_later(
    tmp_path: Path, reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor is another one's by then."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "socket"))
    store = DescriptorStore()
    while store._outbox.send(Notice("STATUS=full")):
        pass
    with (tmp_path / "file").open("wb") as file:
        store.keep("first", file.fileno())
        store.keep("second", file.fileno())
        store.drop("first")
        found = _read(reader)
        store.close()
        found += _read(reader)
    assert found[-1].startswith(b"FDSTORE=1\nFDNAME=second")
    assert not any(b"first" in message for message in found)


def test_a_line_that_could_not_be_ended_is_cut_off() -> None:
    """The next one begins a line; nothing waits for whoever reads."""
    reader, writer = os.pipe()
    sink = StandardError(writer)
    box = Outbox(sink)
    line = b"x" * 10_000 + b"\n"
    while box.send(line):
        pass
    received = os.read(reader, 1 << 20)
    assert box.send(b"next\n")
    received += os.read(reader, 1 << 20)
    *whole, torn, last, rest = received.split(b"\n")
    assert set(whole) <= {b"x" * 10_000}
    assert 0 <= len(torn) < 10_000
    assert (last, rest) == (b"next", b"")
    os.close(reader)
    os.close(writer)


def test_what_was_lost_is_counted_in_the_log(
    box: Outbox[bytes], reader: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next line that finds its way; no bound is silent."""
    monkeypatch.setattr(outbox, "MAX_POSTED", 1)
    monkeypatch.setattr(logs, "OUTBOX", box)
    handler = logs.OutboxHandler()
    handler.setFormatter(logs.LineFormatter(journal=True))

    def log(text: str) -> None:
        handler.emit(logging.makeLogRecord({"msg": text, "levelno": logging.INFO}))

    for at in range(3):
        log(f"line {at}")
    found = _read(reader)
    log("again")
    found += _read(reader)
    log("and again")
    found += _read(reader)
    texts = [message.decode().splitlines()[0] for message in found if message.startswith(b"MESSAGE=")]
    assert texts == [
        "MESSAGE=line 0",
        "MESSAGE=2 messages were lost: nobody took them",
        "MESSAGE=again",
        "MESSAGE=and again",
    ]
