"""The history as it is written, for any number of listeners: one question to the database for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Final

from deployer.api import content
from deployer.api.problems import TOO_MANY, RequestError
from deployer.database import history
from deployer.database.errors import DatabaseError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deployer.api.desk import Desk
    from deployer.database.history import HistoryRow

LOOK_S: Final = 1.0
COMMENT_S: Final = 15.0
MOST: Final = 500
"""Entries that one listener may be behind; then its stream ends, and it asks again from where it was."""
_log = logging.getLogger(__name__)


class Events:
    """Looks at the history while anybody listens; owns who does."""

    def __init__(self, desk: Desk, most: int) -> None:
        self._desk: Final = desk
        self._most: Final = most
        self._listeners: Final[set[asyncio.Queue[tuple[HistoryRow, ...] | None]]] = set()
        self._last: int | None = None
        self.closing = False

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._listeners:
                with contextlib.suppress(DatabaseError):  # whoever asks anything else is told
                    await self.look()

    async def look(self) -> None:
        """Give every listener what is new."""
        last = self._last
        if last is None:
            self._last = await self._newest()
            return
        rows = await self._desk.read(lambda c, _: history.since(c, last, MOST))
        if rows:
            self._last = rows[-1].id
            for queue in tuple(self._listeners):
                self._give(queue, rows)

    def _give(
        self, queue: asyncio.Queue[tuple[HistoryRow, ...] | None], rows: tuple[HistoryRow, ...] | None
    ) -> None:
        if queue.full():  # it does not read: it is ended, and comes back
            self._listeners.discard(queue)
            while not queue.empty():
                queue.get_nowait()
            rows = None
        queue.put_nowait(rows)

    def close(self) -> None:
        """End every stream."""
        self.closing = True
        for queue in tuple(self._listeners):
            self._listeners.discard(queue)
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

    async def stream(self, after: int | None) -> AsyncGenerator[bytes, None]:
        """Yield server-sent events; ``after``: what was missed comes first.

        Raises:
            RequestError: too many listen.
        """
        if len(self._listeners) >= self._most or self.closing:
            raise RequestError(TOO_MANY, "too many listen to events", retry_after=10)
        queue: asyncio.Queue[tuple[HistoryRow, ...] | None] = asyncio.Queue(maxsize=16)
        self._listeners.add(queue)
        try:
            if self._last is None:
                self._last = await self._newest()
            seen = self._last if after is None else after
            yield b": history as it is written\n\n"
            async for row in self._missed(after):
                yield _event(row)
                seen = row.id
            while True:
                try:
                    new = await asyncio.wait_for(queue.get(), COMMENT_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                if new is None:
                    return
                for row in new:
                    if row.id > seen:
                        yield _event(row)
                        seen = row.id
        finally:
            self._listeners.discard(queue)

    async def _missed(self, after: int | None) -> AsyncGenerator[HistoryRow, None]:
        while after is not None:
            at = after
            rows = await self._desk.read(lambda c, _, at=at: history.since(c, at, MOST))  # type: ignore[misc]
            for row in rows:
                yield row
            after = rows[-1].id if len(rows) == MOST else None

    async def _newest(self) -> int:
        rows = await self._desk.read(lambda c, _: history.page(c, limit=1))
        return rows[0].id if rows else 0


def _event(row: HistoryRow) -> bytes:
    """Return one event: JSON has no line end, whatever a row says."""
    data = json.dumps(content.entry(row), ensure_ascii=True)
    return f"id: {row.id}\nevent: history\ndata: {data}\n\n".encode()
