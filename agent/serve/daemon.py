"""The running agent: makes the parts, connects them, and ends them in order.

Owns the state object, the signals and the reload. SIGTERM and SIGINT end it, SIGHUP loads the configuration
again and reads Barbican. Nothing that the cloud does ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from typing import TYPE_CHECKING, Final

from agent.config import load
from agent.core.errors import ConfigurationError, Mistake
from agent.serve import accounts, app_door, clock, control_door, fetching, freshness, journal
from agent.serve.app_door import AppDoor
from agent.serve.connection import Server
from agent.serve.control_door import ControlDoor
from agent.serve.crowd import Crowd
from agent.serve.keeper import Keeper, Refreshed
from agent.serve.listening import BACKLOG, listening
from agent.serve.state import State
from agent.serve.store import Store
from agent.serve.systemd import Systemd

if TYPE_CHECKING:
    import socket

    from agent.config import Config

CONTROL_MODE: Final = 0o660
GOODBYE_S: Final = 2.0
"""How long running requests may take once the agent stops."""

_log: Final = logging.getLogger("agent.daemon")


class Daemon:
    """One run of the agent."""

    def __init__(self, config: Config) -> None:
        self._state = State(config, accounts.grants_of(config.grants), Store(), clock.boot())
        self._systemd: Final = Systemd()
        self._keeper: Final = Keeper(self._state, fetching.fetch, self._told)
        self._stop: Final = asyncio.Event()
        self._started: Final = config
        self._state.warnings = _warnings(config, self._state)

    async def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            ListenError: a socket can't be made.
        """
        config = self._state.config
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._state.store.close)
            group = accounts.gid_of(config.app.group)
            app = stack.enter_context(listening(config.app.socket, config.app.mode, group))
            admins = accounts.gid_of(config.control.admin_group)
            control = stack.enter_context(listening(config.control.socket, CONTROL_MODE, admins))
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(journal.in_loop)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self._reload)
            await self._serve(stack, app, self._app_server())
            await self._serve(stack, control, self._control_server())
            for warning in self._state.warnings:
                _log.warning("%s", warning)
            _log.info("serving %s on %s", config.vps_id, config.app.socket)
            gc.freeze()  # what the start has made stays; looking through it for garbage would slow reads
            tasks = [asyncio.create_task(self._keeper.run()), asyncio.create_task(self._systemd.watchdog())]
            stack.push_async_callback(_cancel, tasks)
            await self._stop.wait()
            self._state.stopping = True
            self._systemd.stopping()
            self._state.store.wake()
            _log.info("stopping")

    def _app_server(self) -> Server:
        state = self._state
        crowd = Crowd(state.config.app.limits)
        return Server(AppDoor(state).answer, app_door.NAME, crowd, state.traffic, self._wants_unit)

    def _wants_unit(self) -> bool:
        return any(grant.unit for grant in self._state.grants)

    def _control_server(self) -> Server:
        state = self._state
        door = ControlDoor(state, self._keeper.refresh)
        return Server(door.answer, control_door.NAME, Crowd(state.config.control.limits), state.traffic)

    async def _serve(self, stack: contextlib.AsyncExitStack, listener: socket.socket, server: Server) -> None:
        """Accept connections until the end; then let running requests end."""
        loop = asyncio.get_running_loop()
        acceptor = await loop.create_unix_server(server, sock=listener, backlog=BACKLOG)
        stack.push_async_callback(server.shutdown, GOODBYE_S)
        stack.callback(acceptor.close)

    def _reload(self) -> None:
        """Load the configuration again; a bad one is told and the one in force stays. Then read Barbican."""
        self._systemd.reloading()
        health = self._state.store.health
        try:
            config = self._same_vps(load(self._state.config.path))
        except ConfigurationError as error:
            health.configuration_error = str(error)
            _log.error("reload refused, the configuration in force stays: %s", error)  # no traceback
        else:
            health.configuration_error = None
            self._state.config, self._state.grants = config, accounts.grants_of(config.grants)
            self._state.warnings = (*_warnings(config, self._state), *self._needs_restart(config))
            logging.getLogger().setLevel(config.log.level.upper())
            for warning in self._state.warnings:
                _log.warning("%s", warning)
            _log.info("configuration loaded again: %d grants", len(config.grants))
        self._keeper.ask()

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

    def _told(self, refreshed: Refreshed) -> None:
        """Tell systemd how a cycle ended."""
        state = self._state
        snapshot = state.store.snapshot
        words = [f"{freshness.summary(state)}"]
        if snapshot is not None:
            words.append(f"generation {snapshot.generation}, {len(snapshot.current)} secrets")
        if refreshed.failure is not None:
            words.append(str(refreshed.failure))
        attempt = freshness.next_attempt_in(state)
        if attempt is not None:
            words.append(f"next reading in {attempt:.0f} s")
        self._systemd.cycle_ended("; ".join(words), ready=snapshot is not None)


def _warnings(config: Config, state: State) -> tuple[str, ...]:
    """Return what is odd about the machine, seen from the configuration."""
    found = list(accounts.unmatched(state.grants))
    for key, group in (("app.group", config.app.group), ("control.admin_group", config.control.admin_group)):
        if group is not None and accounts.gid_of(group) is None:
            found.append(f"{key}: the group {group} does not exist on this machine")
    return tuple(found)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
