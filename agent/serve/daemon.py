"""The running agent: makes the parts, connects them, and ends them in order.

Owns the state object, the signals and the reload. The end loses no request: no new connection is accepted,
whoever is connected is answered once more, and systemd's sockets keep who comes for the next process. SIGTERM
and SIGINT end it, SIGHUP loads the configuration again and reads Barbican. Nothing
that the cloud does ends it; a part that ends by itself does, with status 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.config.reader import load
from agent.core import expiry
from agent.serve.endpoints import app as app_door
from agent.serve.endpoints import control as control_door
from agent.serve.endpoints import credentials as credentials_door
from agent.serve.endpoints.app import AppDoor
from agent.serve.endpoints.control import ControlDoor
from agent.serve.endpoints.credentials import CredentialsDoor
from agent.serve.host import accounts, clock, logs, rotation_trigger, signals
from agent.serve.host.fdstore import DescriptorStore
from agent.serve.host.listener import BACKLOG, listening
from agent.serve.host.notify import Systemd
from agent.serve.http.limits import CallerLimits
from agent.serve.http.server import Server
from agent.serve.missing import DOORS, advice, missing
from agent.serve.state import State
from agent.serve.store.handover import Handover
from agent.serve.store.index import Owner
from agent.serve.store.published import PublicationRecord
from agent.serve.store.store import Store
from agent.serve.supervision import Parts
from agent.serve.sync import fetch_client, freshness
from agent.serve.sync.account_finder import AccountFinder
from agent.serve.sync.beacon_watch import Beacon
from agent.serve.sync.publisher import Publisher
from agent.serve.sync.refresher import Refreshed, Refresher
from common.errors import ConfigurationError, Mistake

if TYPE_CHECKING:
    import socket

    from agent.config.model import Config, Limits
    from agent.serve.host.fdstore import Inherited
    from agent.serve.http.door import Door

CONTROL_MODE: Final = 0o660

_log: Final = logging.getLogger("agent.daemon")


class Daemon:
    """One run of the agent. ``inherited`` is what systemd handed over: sockets, and files of a former run."""

    def __init__(self, config: Config, inherited: Inherited) -> None:
        self._inherited: Final = inherited
        self._descriptors: Final = DescriptorStore()
        owner = Owner.of(config.vps_id, config.container.id)
        self._handover: Final = Handover(self._descriptors, owner)
        self._published: Final = PublicationRecord(rotation_trigger.directory(), owner)
        self._trigger: Final = rotation_trigger.RotationTrigger()
        store = Store(self._handover)
        self._state = State(config, accounts.grants_of(config.grants, {}), store, clock.boot())
        self._state.missing_sockets = missing(inherited.sockets)
        self._finder: Final = AccountFinder(self._state, self._on_other_grants)
        adopted = self._handover.adopt(inherited.kept)
        store.adopt(adopted)
        store.resume(self._published.last)
        self._refused: Final = adopted.refused
        self._systemd: Final = Systemd()
        self._publisher: Final = Publisher(self._state)
        self._refresher: Final = Refresher(
            self._state, fetch_client.fetch, self._on_cycle_end, self._publisher
        )
        self._beacon: Final = Beacon(self._state, fetch_client.watch, self._refresher.signal)
        self._stop: Final = asyncio.Event()
        self._reload_is_due = False
        self._started: Final = config
        self._told: frozenset[str] = frozenset()
        self._servers: tuple[Server, ...] = ()
        self._app_lacks_its_group = False
        self._urgency = 0  # of the credential's expiry, as far as it was told

    async def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            ListenError: a socket can't be made.
            PartEndedError: a part that runs as long as the process has ended.
        """
        parts = Parts(self._stop)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._descriptors.close)
            stack.callback(self._state.store.close)
            stack.callback(self._finder.end)
            await self._finder.answered(self._finder.configured())
            listeners = self._listeners(stack)
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(logs.in_loop)
            stop = self._stop.set
            signals.handle({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: self._reload_soon})
            await self._handover.check()
            if self._publisher.drop_overdue().wiped:
                self._refresher.ask()
            self._servers = self._doors(listeners)
            for server in self._servers:
                server.accept(listeners[server.door.name])
                stack.callback(server.stop)
            await self._open_credentials(stack, parts)
            self._say_hello()
            gc.freeze()  # what the start has made stays; looking through it for garbage would slow reads
            stack.push_async_callback(parts.end)
            parts.start("the refresher", self._refresher.run())
            parts.start("the watch over the beacon", self._beacon.run())
            parts.start("the watchdog", self._systemd.beat(self._beat, self._refresher.is_stuck))
            await self._stop.wait()
            await self._end(parts)
            signals.block()  # the loop gives its handlers up, and the status is to be its own
        if parts.failure is not None:
            raise parts.failure

    async def _end(self, parts: Parts) -> None:
        """Answer whoever is connected once more; after a failure without any value."""
        if parts.failure is None:
            _log.info("stopping")
        else:
            await parts.end()
            self._publisher.give_up()
            self._state.store.close()
        self._state.stopping = True
        self._systemd.stopping()
        for server in self._servers:
            server.stop()
        self._finder.end()
        self._state.store.wake()
        await asyncio.gather(*(server.drain() for server in self._servers))

    def _say_hello(self) -> None:
        """Tell the journal and systemd how it begins."""
        state, config = self._state, self._state.config
        if app_door.NAME not in state.missing_sockets:
            _log.info("serving %s on %s", config.vps_id, config.app.socket)
        if state.store.snapshot is not None:
            _log.info(
                "generation %s was kept by systemd: %d secrets, confirmed %.0f s ago",
                state.store.snapshot.generation,
                len(state.store.snapshot.current),
                freshness.age(state),
            )
            self._systemd.cycle_ended(freshness.line(state))
            self._report_publication()
        elif why_not := self._handover.why_not_at_all():
            _log.info("a restart will read everything from Barbican again: %s", why_not)

    def _listeners(self, stack: contextlib.AsyncExitStack) -> dict[str, socket.socket]:
        """Return the sockets of the doors: systemd's where it has made any, else our own."""
        config, inherited = self._state.config, self._inherited.sockets
        if any(name in inherited for name in DOORS):
            return {name: inherited[name] for name in (app_door.NAME, control_door.NAME) if name in inherited}
        group = accounts.gid_of(config.app.group, self._finder.ids)
        self._app_lacks_its_group = config.app.group is not None and group is None
        app = stack.enter_context(listening(config.app.socket, config.app.mode, group))
        control = stack.enter_context(listening(config.control.socket, CONTROL_MODE, self._state.admins))
        return {app_door.NAME: app, control_door.NAME: control}

    async def _open_credentials(self, stack: contextlib.AsyncExitStack, parts: Parts) -> None:
        """Answer systemd's LoadCredential=, and whoever a former run has not answered."""
        door = CredentialsDoor(self._state, self._descriptors)
        stack.push_async_callback(
            lambda: door.end(hand_on=not (self._state.stopping and parts.failure is None))
        )
        for name, connection in credentials_door.held(self._inherited.sockets):
            await door.adopt(name, connection)
        listener = self._inherited.sockets.get(credentials_door.NAME)
        if listener is not None:
            acceptor = await asyncio.get_running_loop().create_server(door, sock=listener, backlog=BACKLOG)
            stack.callback(acceptor.close)

    def _doors(self, listeners: dict[str, socket.socket]) -> tuple[Server, ...]:
        """Return a server for each of the sockets that are there."""
        state, app = self._state, listeners.get(app_door.NAME)
        path = None if app is None else Path(app.getsockname())
        doors: tuple[tuple[Door, Limits], ...] = (
            (AppDoor(state, self._finder), state.config.app.limits),
            (ControlDoor(state, self._refresher.refresh, self._finder, path), state.config.control.limits),
        )
        return tuple(
            Server(door, CallerLimits(limits), state.traffic)
            for door, limits in doors
            if door.name in listeners
        )

    def _reload_soon(self) -> None:
        """Load the configuration again, once for all the signals that have come by then."""
        if not self._reload_is_due:
            self._reload_is_due = True
            asyncio.get_running_loop().call_soon(self._reload)

    def _reload(self) -> None:
        """Load the configuration again; a bad one is told and the one in force stays. Then read Barbican."""
        self._reload_is_due = False
        self._systemd.reloading()
        health = self._state.health
        try:
            config = self._same_vps(load(self._state.config.path))
        except ConfigurationError as error:
            health.configuration_error = str(error)
            _log.error("reload refused, the configuration in force stays: %s", error)  # no traceback
        except Exception as error:  # noqa: BLE001  # a machine without descriptors or memory, or a bug
            health.configuration_error = f"it could not be loaded: {logs.place(error)}"
            _log.error("reload refused, the configuration in force stays: %s", health.configuration_error)
        else:
            health.configuration_error = None
            self._state.config, self._told = config, frozenset()
            self._finder.configured()
            logging.getLogger().setLevel(config.log.level.upper())
            _log.info("configuration loaded again: grants: %d", len(config.grants))
            self._beacon.reload()
        self._refresher.ask()

    def _same_vps(self, config: Config) -> Config:
        """Refuse a reload that makes this the agent of another VPS: what is held is not that one's."""
        now = self._state.config
        changed = [
            key
            for key, differs in (
                ("vps_id", config.vps_id != now.vps_id),
                ("container", config.container.id != now.container.id),
            )
            if differs
        ]
        if changed:
            expected = "can't be changed by a reload: restart the agent"
            raise ConfigurationError(tuple(Mistake(str(config.path), key, expected) for key in changed))
        return config

    def _needs_restart(self, config: Config) -> tuple[str, ...]:
        """Return what a reload can't change."""
        started = self._started
        changed = [
            name
            for name, before, now in (
                ("[app]", started.app, config.app),
                ("[control]", started.control, config.control),
            )
            if before != now
        ]
        return tuple(f"{name} has changed; restart the agent for it to take effect" for name in changed)

    def _on_cycle_end(self, refreshed: Refreshed) -> None:
        """Report to systemd how a cycle ended, and what changed to units that can't watch."""
        del refreshed  # what the units know may be older
        self._finder.find()
        self._report_publication()
        self._warn_of_expiry()
        self._systemd.cycle_ended(freshness.line(self._state))
        self._beacon.begin()

    def _on_other_grants(self) -> None:
        """Look again at what is odd about the machine, and at who is connected and who waits for a change."""
        config = self._state.config
        self._state.warnings = (*self._warnings(config), *self._needs_restart(config))
        for warning in self._state.warnings:
            if warning not in self._told:
                _log.warning("%s", warning)
        self._told = frozenset(self._state.warnings)
        for server in self._servers:
            server.look_again()
        if self._servers:  # before, nobody is answered, and the accounts are not known yet
            self._report_publication()
        self._state.store.wake()

    def _report_publication(self) -> None:
        """Tell watchers and units what they do not know: it may have changed while no agent was running."""
        store, grants = self._state.store, self._state.grants
        if store.snapshot is not None:
            store.note_readable(self._published.newly_readable(grants))
            told = self._trigger.touch(self._published.untold(store.snapshot), grants)
            self._published.remember(store.snapshot, store.changed, grants, told=told)

    def _beat(self) -> str:
        """Have done what is due after a suspension, and return the line for ``systemctl status``."""
        self._refresher.look()
        return freshness.line(self._state)

    def _warn_of_expiry(self) -> None:
        """Warn once at each threshold before the credential expires; a new credential begins anew."""
        expires, wall = self._state.health.credential_expires, clock.wall()
        former, self._urgency = self._urgency, expiry.urgency(expires, wall)
        if self._urgency > former:
            _log.warning("%s", expiry.warning(expires, wall))

    def _warnings(self, config: Config) -> tuple[str, ...]:
        """Return what is odd about the machine, seen from the configuration."""
        found = [*map(advice, self._state.missing_sockets), *self._refused]
        found += accounts.missing(config, self._state.grants, self._finder.ids)
        for key, door, path in (
            ("app.socket", app_door.NAME, config.app.socket),
            ("control.socket", control_door.NAME, config.control.socket),
        ):
            listener = self._inherited.sockets.get(door)
            if listener is not None and listener.getsockname() != str(path):
                found.append(f"{key} has no effect: systemd has made the socket {listener.getsockname()}")
        if self._app_lacks_its_group:
            found.append("app.group: it was not known when the socket was made; restart the agent once it is")
        if app_door.NAME in self._inherited.sockets and config.app.group is not None:
            found.append("app.group has no effect: vps-secrets-app.socket has SocketGroup=")
        return tuple(found)
