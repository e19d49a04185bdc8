"""The signals that the agent takes: blocked from the first line of the process on, while nobody handles them.

A signal whose default action ends the process looks to systemd like an orderly end, after which it starts no
other: SIGHUP would be one, in every moment in which no loop has its handlers (systemd.service(5), Restart=).
A blocked signal waits for the next loop instead (sigprocmask(2)).
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TAKEN: Final = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def block() -> None:
    """Have the signals wait from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)


def unblock() -> None:
    """Have them delivered from now on, and those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)


def handle(handlers: Mapping[signal.Signals, Callable[[], None]]) -> None:
    """Have the running loop call these, also for what has waited."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    unblock()


async def settle() -> None:
    """Block, and return once the handlers of all that came before have been called."""
    block()
    for _ in range(
        4
    ):  # the loop reads that there was one, takes note, and calls the handler: a turn for each
        await asyncio.sleep(0)
