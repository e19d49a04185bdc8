"""An agent that systemd started without a valid configuration: it waits, and says what to do.

It must not end: systemd would start it again for the next caller on its sockets, in a loop, until it takes
the sockets away. So both HTTP sockets answer 503 with the reason, the credentials socket is left alone (its
callers wait), and SIGHUP looks at the configuration again. Connections to it that a former process held are
refused when this one is stopped: an end without a word would be an empty credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Final

from agent.config.model import Limits
from agent.config.reader import load
from agent.core.errors import NOT_CONFIGURED, RequestError
from agent.serve.endpoints import app as app_door
from agent.serve.endpoints import control as control_door
from agent.serve.endpoints import credentials as credentials_door
from agent.serve.host import signals
from agent.serve.host.events import any_of
from agent.serve.host.fdstore import DescriptorStore
from agent.serve.host.notify import Systemd
from agent.serve.http.limits import CallerLimits
from agent.serve.http.server import Server
from agent.serve.http.traffic import Traffic
from agent.serve.missing import advice, missing
from agent.serve.supervision import Parts
from common.errors import ConfigurationError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping
    from pathlib import Path

    from agent.config.model import Config
    from agent.core.access import Peer
    from agent.core.http import Request
    from agent.serve.http.responses import Said

RETRY_AFTER_S: Final = 30.0
ADVICE: Final = "run `vps-secrets setup`, or fix the file and run `systemctl reload vps-secrets-agent`"

_log: Final = logging.getLogger("agent")


async def wait(path: Path, sockets: Mapping[str, socket.socket], error: ConfigurationError) -> Config | None:
    """Return the configuration once there is a valid one, or None when a signal ends the agent.

    Signals are blocked then: what comes in the hand-over waits for whoever handles them next.

    Raises:
        PartEndedError: a part of this has ended.
    """
    for name in missing(sockets):
        _log.warning("%s", advice(name))
    systemd, problem = Systemd(), [error]
    ended, reload = asyncio.Event(), asyncio.Event()
    parts = Parts(ended)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(parts.end)
        parts.start("the watchdog", systemd.beat(lambda: _line(problem[0])))
        for name in (app_door.NAME, control_door.NAME):
            if name in sockets:
                server = Server(_Refusing(name, problem), CallerLimits(Limits()), Traffic())
                server.accept(sockets[name])
                stack.push_async_callback(server.drain)
        signals.handle({signal.SIGTERM: ended.set, signal.SIGINT: ended.set, signal.SIGHUP: reload.set})
        while True:
            _report(systemd, problem[0])
            await any_of(ended, reload)
            await signals.settle()
            if ended.is_set():
                break
            reload.clear()
            try:
                return load(path)
            except ConfigurationError as still:
                problem[0] = still
            signals.unblock()
        if parts.failure is not None:
            raise parts.failure  # systemd hands the connections that are held to the next process
        systemd.stopping()
        descriptors = DescriptorStore()
        stack.callback(descriptors.close)
        await credentials_door.refuse_held(sockets, descriptors)
    return None


def _report(systemd: Systemd, error: ConfigurationError) -> None:
    for mistake in error.mistakes:
        _log.error("%s", mistake)
    _log.error("there is no valid configuration, so nothing is served; %s", ADVICE)
    systemd.waiting(_line(error))


def _line(error: ConfigurationError) -> str:
    """Return what ``systemctl status`` shows."""
    more = f" and {len(error.mistakes) - 1} more" if len(error.mistakes) > 1 else ""
    return f"not configured: {error.mistakes[0]}{more}; {ADVICE}"


class _Refusing:
    """A door with nothing behind it: operators are told the mistakes, applications that there are some."""

    def __init__(self, name: str, problem: list[ConfigurationError]) -> None:
        self.name: Final = name
        self.records_may_wait: Final = True
        self._problem: Final = problem

    def wants_unit(self) -> bool:
        """Nobody's unit matters."""
        return False

    def knows(self, peer: Peer) -> bool:
        """Everybody is equal."""
        del peer
        return True

    def answer(self, request: Request, peer: Peer | None) -> Said:
        """Refuse."""
        del request, peer
        detail = ADVICE
        if self.name == control_door.NAME:
            detail = "; ".join([*map(str, self._problem[0].mistakes), ADVICE])
        raise RequestError(NOT_CONFIGURED, detail, retry_after=RETRY_AFTER_S)
