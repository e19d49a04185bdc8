"""The tasks that run as long as the process does: none of them ends unseen.

What ends one of them is not understood, so the process does not go on without it: it ends, and systemd starts
it again with what it kept (docs/adr/0016).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from agent.serve.host.logs import place
from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Coroutine


class PartEndedError(VpsSecretsError):
    """A part that must run as long as the process has ended; the text has type and place of the error."""


class Parts:
    """Owns the tasks. ``stop`` is set when one of them ends by itself; ``failure`` is the first that did."""

    def __init__(self, stop: asyncio.Event) -> None:
        self.failure: PartEndedError | None = None
        self._stop: Final = stop
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._ending = False

    def start(self, name: str, part: Coroutine[None, None, None]) -> None:
        """Run a part until :meth:`end`."""
        task = asyncio.create_task(part, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Cancel all parts and wait for their ends."""
        self._ending = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._ending or self.failure is not None:
            return
        how = place(error) if error is not None else "it returned"
        self.failure = PartEndedError(
            f"{task.get_name()} has ended, report this bug: {how}; "
            "the agent ends, so that systemd starts it again"
        )
        self._stop.set()
