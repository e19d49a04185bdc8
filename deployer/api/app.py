"""The API as a whole: from a configuration to listening sockets, and to an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import web

from deployer import listening
from deployer.api import certificates, settling, tls
from deployer.api.callers import Roles
from deployer.api.connection import Connection, Doorkeeper
from deployer.api.contract import Routes
from deployer.api.dashboard.pages import Pages
from deployer.api.desk import Desk
from deployer.api.events import Events
from deployer.api.handlers import Handlers
from deployer.api.metrics import Metrics
from deployer.api.server import Server
from deployer.core import lifetimes
from deployer.database import operations
from deployer.database.errors import DatabaseError
from deployer.database.migrating import migrate
from deployer.outage import Outage

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine

    from sqlalchemy.engine import Connection as Transaction

    from deployer.api.settling import Verdict
    from deployer.config.model import Config
    from deployer.database.engine import Database
    from deployer.database.operations import Operation

SETTLE_S: Final = 1.0
MOST_AT_ONCE: Final = 1000
REST: Final = 4.0
"""How many times as long as a look at the operations took is waited before the next one."""
LOOK_UP_S: Final = 30.0
CERTIFICATES_S: Final = 20.0
STOP_S: Final = 20.0
_log = logging.getLogger(__name__)


class App:
    """Everything of the API; owns its tasks and its doors."""

    def __init__(self, config: Config, database: Database, *, ready: bool = True) -> None:
        """``ready``: the tables are up to date; otherwise they are before the first question."""
        self._config: Final = config
        self._desk: Final = Desk(database, prepare=None if ready else migrate)
        self._outage: Final = Outage(_log, "the deployer's database")
        self._roles: Final = Roles(config.api.roles)
        self._doorkeeper: Final = Doorkeeper(config.api.limits)
        self._events: Final = Events(self._desk, config.api.limits.event_streams)
        self._news: Final = asyncio.Event()
        self._began: Final = asyncio.Event()
        self._began.set()
        metrics = Metrics(config.backups)
        handlers = Handlers(self._desk, config, metrics, self._news.set)
        pages = Pages(self._desk, config.backups)
        server = Server(
            config.api,
            self._roles,
            Routes(),
            handlers=handlers,
            pages=pages,
            events=self._events,
            metrics=metrics,
        )
        self._protocols: Final = web.Server(server.handle)
        self._doors: Final[list[asyncio.Server]] = []
        self._tasks: Final[list[asyncio.Task[None]]] = []
        self._own_socket = False
        self._context: ssl.SSLContext | None = None
        self._stamp: object = None
        self._looked_on = -1

    async def start(self) -> None:
        """Open the doors.

        Raises:
            ListenError: one can't be opened.
        """
        self._look_up_roles()
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self._protocols, self._doorkeeper, loop)

        api = self._config.api
        if api.tls is not None:
            self._stamp = certificates.stamp(api.tls, tls.path_of(api.tls.key))
            self._context = tls.context(api.tls)
        own, self._own_socket = listening.unix(api.socket.path, api.socket.group, api.socket.mode)
        self._doors.append(await loop.create_unix_server(connection, sock=own, backlog=listening.BACKLOG))
        if api.tls is not None:
            self._doors.append(
                await loop.create_server(
                    connection,
                    api.tls.host,
                    api.tls.port,
                    ssl=self._context,
                    ssl_handshake_timeout=tls.HANDSHAKE_S,
                    backlog=listening.BACKLOG,
                )
            )
        self._tasks.extend(
            asyncio.create_task(each)
            for each in (
                self._events.run(),
                self._every(SETTLE_S, self._settle, self._news),
                self._every(LOOK_UP_S, self._look_up, asyncio.Event()),
                self._every(CERTIFICATES_S, self._look_at_certificates, self._began),
            )
        )

    async def stop(self) -> None:
        """Close the doors, end what is being answered, and let go of the database's threads."""
        for door in self._doors:
            door.close()
        self._events.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._protocols.shutdown(STOP_S)
        await self._desk.close(STOP_S)
        if self._own_socket:
            self._config.api.socket.path.unlink(missing_ok=True)

    async def _every(
        self, seconds: float, act: Callable[[], Coroutine[None, None, None]], news: asyncio.Event
    ) -> None:
        """Act again and again, and at once where there is news."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), seconds)
            news.clear()
            try:
                await act()
                self._outage.answered()
            except DatabaseError as error:
                self._outage.failed(error, seconds)
                await asyncio.sleep(seconds)

    async def _settle(self) -> None:
        """See how far each operation is, and order the next rotations of those that are for many."""
        began = time.monotonic()
        open_ones = await self._desk.read(lambda c, _: operations.unfinished(c, MOST_AT_ONCE))
        for each in open_ones:
            while each.kind == settling.MANY and await self._desk.write(partial(_spread, each)):
                pass
        verdicts = await self._desk.read(lambda c, _: [(each, settling.judge(c, each)) for each in open_ones])
        for each, verdict in verdicts:
            if verdict is not None:
                await self._desk.write(partial(_write_down, each, verdict))
        # many that wait for long must not keep the database busy
        await asyncio.sleep(REST * (time.monotonic() - began))

    async def _look_at_certificates(self) -> None:
        """Take a certificate that was renewed; once a day, and then, write down how long it lasts."""
        settings = self._config.api.tls
        if settings is None or self._context is None:
            return
        key = tls.path_of(settings.key)
        found = await asyncio.to_thread(certificates.stamp, settings, key)
        renewed = found != self._stamp
        if renewed and not tls.load(self._context, settings):
            _log.error("[api.tls]: the new certificate and its key don't belong together; the former is used")
        if renewed:
            self._stamp = found
        today = int(time.time() // lifetimes.DAY_S)
        if renewed or today != self._looked_on:
            ends = await asyncio.to_thread(certificates.lifetimes_of, settings)
            await self._desk.write(lambda c, now: certificates.write_down(c, now, ends))
            self._looked_on = today

    async def _look_up(self) -> None:
        await asyncio.to_thread(self._look_up_roles)

    def _look_up_roles(self) -> None:
        before = self._roles.unknown
        self._roles.look_up()
        if self._roles.unknown and self._roles.unknown != before:
            _log.warning("roles: this machine does not know: %s", ", ".join(self._roles.unknown))


def _spread(operation: Operation, c: Transaction, now: float) -> bool:
    return settling.spread(c, now, operation)


def _write_down(operation: Operation, verdict: Verdict, c: Transaction, now: float) -> None:
    settling.write_down(c, now, operation, verdict)
