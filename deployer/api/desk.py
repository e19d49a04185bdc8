"""The one place where the event loop and the database meet: each question is a transaction in a thread.

``Desk.change`` carries an order out even if its caller leaves: an order that was read is written down.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from sqlalchemy.engine import Connection

    from deployer.database.engine import Database

T = TypeVar("T")
READERS: Final = 4
"""Threads, each with a connection of its own; the fleet's page at 10,000 VPSs takes one of them for 0.1 s."""


class Desk:
    """The database, for the event loop; owns the threads."""

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        prepare: Callable[[Database], object] | None = None,
    ) -> None:
        """``prepare`` comes before the first question, which fails where it does; the next one tries it."""
        self._database: Final = database
        self._prepare = prepare
        self._preparing: Final = threading.Lock()
        self._threads: Final = ThreadPoolExecutor(READERS, thread_name_prefix="database")
        self._going_on: Final[set[asyncio.Task[object]]] = set()
        self.clock: Final = clock

    async def read(self, question: Callable[[Connection, float], T]) -> T:
        """Ask; the question gets a connection that can't write, and the time."""

        def ask() -> T:
            self._get_ready()
            with self._database.read() as c:
                return question(c, self.clock())

        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    async def write(self, order: Callable[[Connection, float], T]) -> T:
        """Write; all of it or nothing."""

        def act() -> T:
            self._get_ready()
            with self._database.write() as c:
                return order(c, self.clock())

        return await asyncio.get_running_loop().run_in_executor(self._threads, act)

    async def see_through(self, work: Coroutine[object, object, T]) -> T:
        """Do something to its end, also when the caller who waits for it leaves."""
        task = asyncio.ensure_future(work)
        self._going_on.add(task)
        task.add_done_callback(self._gone)
        return await asyncio.shield(task)

    async def close(self, limit: float) -> None:
        """Wait for what goes on, so long at most, and let the threads go."""
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=limit)
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _get_ready(self) -> None:
        if self._prepare is None:
            return
        with self._preparing:
            if self._prepare is not None:
                self._prepare(self._database)
                self._prepare = None

    def _gone(self, task: asyncio.Task[T]) -> None:
        self._going_on.discard(task)
        if not task.cancelled():
            task.exception()  # told to the caller, if he is still there; else it is nobody's
