"""A bug in the answer to one connection costs that connection only."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from agent.config.model import Limits
from agent.serve.host.audit import Record
from agent.serve.http.limits import CallerLimits
from agent.serve.http.responses import Answer, Response
from agent.serve.http.server import Server
from agent.serve.http.traffic import Traffic

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from agent.core.access import Peer
    from agent.core.http import Request

NO_STATUS = 999


class Door:
    """Answers everybody; one path with a status that can't be written."""

    name = "app"
    records_may_wait = True

    def wants_unit(self) -> bool:
        """Nobody's unit matters."""
        return False

    def knows(self, peer: Peer) -> bool:
        """Everybody is equal."""
        del peer
        return True

    def answer(self, request: Request, peer: Peer | None) -> Answer:
        """Answer."""
        del peer
        status = NO_STATUS if request.path == "/bad" else 200
        return Answer(Record("served", 200, request.path, {}), Response(status))


async def _ask(path: Path, target: str) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    try:
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_a_bug_costs_one_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is closed and told; others are answered, deadlines go on, and nothing is left."""
    traffic = Traffic()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        server = Server(Door(), CallerLimits(Limits(idle_timeout=0.1, header_timeout=0.1)), traffic)
        server.accept(listener)
        for _ in range(3):
            assert await _ask(tmp_path / "socket", "/bad") == b""
            assert (await _ask(tmp_path / "socket", "/good")).startswith(b"HTTP/1.1 200 OK\r\n")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
        assert await asyncio.wait_for(reader.read(), 20) == b"", "it was idle for too long"
        writer.close()
        await server.drain()
    assert caplog.text.count("a connection is closed because of a bug, report it: KeyError at ") == 3
    assert traffic.connections["app"] == 0
