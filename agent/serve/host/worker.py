"""One thread for calls that may hang, such as look-ups of users: the event loop never waits for them.

A daemon thread, which nobody waits for when the process ends; asyncio's own threads are waited for.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import TYPE_CHECKING, Final, TypeVar

from agent.serve.host import signals

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Worker:
    """Does jobs one after the other, in the order in which they came."""

    def __init__(self, name: str) -> None:
        self._jobs: Final[queue.SimpleQueue[Callable[[], None]]] = queue.SimpleQueue()
        self._thread: Final = threading.Thread(target=self._work, name=name, daemon=True)

    def do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Have a job done in the thread; its result, or its error, is the future's."""
        if self._thread.ident is None:
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: Exception | None) -> None:
            if done.done():
                return  # nobody waits any more
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # None only where that is the job's result

        def work() -> None:
            result, failure = None, None
            try:
                result = job()
            except Exception as error:  # noqa: BLE001  # it belongs to whoever waits for it
                failure = error
            loop.call_soon_threadsafe(settle, result, failure)

        self._jobs.put(work)
        return done

    def _work(self) -> None:
        signals.block()  # they are the main thread's
        while True:
            try:
                self._jobs.get()()
            except RuntimeError:  # the loop is closed: the process ends
                return
