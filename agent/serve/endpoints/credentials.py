"""The socket behind ``LoadCredential=NAME:/run/vps-secrets/credentials.sock`` (systemd.exec(5)).

systemd, uid 0, connects from an abstract address that names unit and credential, and reads until the end.
**An early end gives the unit an empty credential and lets it start.** So a connection is held until the
secret is there, over a crash of the agent too, and it is refused by sending more than systemd takes: then
the unit fails with 243/CREDENTIALS. A process that ends without an answer hands the connection on to the next
one (the descriptor store) or refuses: there is no third way out.

The grant is looked up by the unit alone: which user the unit runs as is not known here, so a grant that names
a user or a group besides lets nobody in at this door.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core.access import Peer, decide
from agent.core.errors import (
    AUDIT_UNAVAILABLE,
    NO_SUCH_SECRET,
    NOT_ADMIN,
    NOT_GRANTED,
    TOO_MANY_CONNECTIONS,
    Problem,
)
from agent.serve.host import audit, peer
from agent.serve.host.audit import Record
from agent.serve.host.events import any_of
from agent.serve.host.logs import place
from common.names import SecretName, parse_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from agent.serve.host.fdstore import DescriptorStore
    from agent.serve.state import State

NAME: Final = "credentials"
HELD: Final = "held"
MAX_HELD: Final = 128
REFUSAL: Final = bytes(1024 * 1024 + 4096)
"""More than systemd takes for a credential (1 MiB)."""
REFUSAL_TIMEOUT_S: Final = 5.0

_ADDRESS: Final = re.compile(rb"\0[0-9a-f]+/unit/([^/\0]{1,255})/([^/\0]{1,255})")
_NOBODY: Final = -1
_log: Final = logging.getLogger("agent.credentials")


class Asked(NamedTuple):
    """What systemd asks for: the unit and the credential's name."""

    unit: str
    credential: str


def held(sockets: Mapping[str, socket.socket]) -> list[tuple[str, socket.socket]]:
    """Return the connections that a former process held, by the names under which systemd keeps them."""
    return [(name, connection) for name, connection in sockets.items() if name.startswith(f"{HELD}-")]


async def refuse_held(sockets: Mapping[str, socket.socket], descriptors: DescriptorStore) -> None:
    """Refuse the connections that a former process held: this one ends without ever answering them."""
    await asyncio.gather(*(_refuse_one(connection) for _, connection in held(sockets)))
    for name, _ in held(sockets):
        descriptors.drop(name)


async def _refuse_one(connection: socket.socket) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(REFUSAL_TIMEOUT_S):
            await asyncio.get_running_loop().sock_sendall(connection, REFUSAL)


def asked_by(untrusted_address: object) -> Asked | None:
    """Return what a connection's address asks for, or None where it is not systemd's form."""
    match = _ADDRESS.fullmatch(untrusted_address) if isinstance(untrusted_address, bytes) else None
    if match is None:
        return None
    unit, credential = (part.decode("ascii", "replace") for part in match.groups())
    return Asked(unit, credential)


class CredentialsDoor:
    """Answers systemd over ``state``; ``descriptors`` keeps connections that are held, against a crash."""

    def __init__(self, state: State, descriptors: DescriptorStore) -> None:
        self._state = state
        self._descriptors = descriptors
        self._stop: Final = asyncio.Event()
        self._tasks: dict[asyncio.Task[None], _Connection] = {}
        self._count = 0

    def __call__(self) -> asyncio.Protocol:
        """Make the protocol of a new connection."""
        return _Connection(self)

    async def adopt(self, name: str, connection: socket.socket) -> None:
        """Go on with a connection that a former process held; systemd keeps it on until it is answered."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: _Connection(self, name), connection)

    async def end(self, *, hand_on: bool) -> None:
        """Refuse whoever is held, or leave them to the next process, where there will be one at once.

        An end without a word would be an empty credential.
        """
        if hand_on and self._descriptors.works:
            for task in [task for task, connection in self._tasks.items() if connection.kept]:
                task.cancel()
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=REFUSAL_TIMEOUT_S + 1)

    def begin(self, connection: _Connection) -> None:
        """Answer a new connection in a task of its own."""
        task = asyncio.create_task(self._answer(connection))
        self._tasks[task] = connection
        task.add_done_callback(self._tasks.pop)

    async def _answer(self, connection: _Connection) -> None:
        """Write the payload or the refusal, after its audit record; then close."""
        traffic = self._state.traffic
        traffic.connections[NAME] += 1
        try:
            await self._decide(connection)
        except asyncio.CancelledError:
            if connection.kept is None:  # else systemd keeps it for the next process
                connection.transport.write(REFUSAL)
            connection.transport.close()
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is: an end without a word would be an answer
            _log.error("a credential is refused because of a bug, report it: %s", place(error))
            await self._refuse(connection)
        finally:
            traffic.connections[NAME] -= 1
        if connection.kept is not None:
            self._descriptors.drop(connection.kept)
        connection.transport.close()

    async def _decide(self, connection: _Connection) -> None:
        caller = peer.of(connection.transport.get_extra_info("socket"))
        asked = asked_by(connection.transport.get_extra_info("peername"))
        if caller is None or caller.uid != 0 or asked is None:
            reason = "only systemd may ask here, for a unit"
            self._record(caller, asked, NOT_ADMIN, reason)
            await self._refuse(connection)
            return
        name = parse_name(asked.credential)
        unit = Peer(caller.pid, _NOBODY, _NOBODY, frozenset(), asked.unit)
        if name is None or not decide(unit, name, self._state.grants).allowed:
            reason = f'there is no [[grant]] with unit = "{asked.unit}" alone that covers it'
            self._record(caller, asked, NOT_GRANTED, reason)
            await self._refuse(connection)
            return
        problem = await self._wait_for(connection, asked, name)
        # the configuration may have changed meanwhile
        decision = decide(unit, name, self._state.grants)
        snapshot = self._state.store.snapshot
        if problem is None and decision.grant is not None and snapshot is not None:
            secret = snapshot.current[name]
            versions: dict[str, str | None] = {name: secret.facts.version}
            payload = secret.reveal()
            grants = (decision.grant.index + 1,)
            record = Record("served", 200, name, versions, snapshot.generation, grants)
            if not await audit.written(_who(caller, asked), "LOAD", record):
                self._state.traffic.unrecorded[NAME] += 1
                self._state.traffic.requests[NAME, AUDIT_UNAVAILABLE.outcome] += 1
                _log.error("refused the credential %r to %s: %s", name, asked.unit, audit.trouble())
                await self._refuse(connection)
                return
            self._state.traffic.requests[NAME, record.outcome] += 1
            self._state.traffic.served(NAME, asked.unit, record.names)
            connection.transport.write(payload)
            connection.transport.write_eof()  # also for the copy of it that systemd may keep
            await connection.flushed(REFUSAL_TIMEOUT_S)
        elif not connection.gone.is_set():
            problem = problem or NOT_GRANTED
            self._record(caller, asked, problem, problem.title)
            await self._refuse(connection)

    async def _wait_for(self, connection: _Connection, asked: Asked, name: SecretName) -> Problem | None:
        """Return None once the secret is there, or why it won't be given; hold the connection meanwhile."""
        store = self._state.store
        waits = False
        while True:
            published = store.next_publication()
            snapshot = store.snapshot
            if snapshot is not None and name in snapshot.current:
                return None
            if snapshot is not None and name not in snapshot.remarks.pending:
                return NO_SUCH_SECRET
            if self._stop.is_set() or connection.gone.is_set() or len(self._tasks) > MAX_HELD:
                return TOO_MANY_CONNECTIONS
            if not waits:
                waits = True
                self._hold(connection)
                _log.info(
                    "%s waits for the credential %s, which is not there yet", asked.unit, asked.credential
                )
            await any_of(published, self._stop, connection.gone)

    def _hold(self, connection: _Connection) -> None:
        """Have systemd keep the connection until it is answered."""
        if connection.kept is None:
            self._count += 1
            connection.kept = f"{HELD}-{os.getpid()}-{self._count}"
            descriptor = connection.transport.get_extra_info("socket").fileno()
            self._descriptors.keep(connection.kept, descriptor)

    def _record(self, caller: Peer | None, asked: Asked | None, problem: Problem, reason: str) -> None:
        """Tell the journal who was refused what, and why."""
        unit, credential = asked or Asked("?", "?")
        _log.warning("refused the credential %r to %s: %s", credential, unit, reason)
        names: dict[str, str | None] = {}
        if (name := parse_name(credential)) is not None:
            names[name] = None
        record = Record(problem.outcome, problem.status, credential, names, reason=problem.type)
        audit.post(_who(caller, asked), "LOAD", record)
        self._state.traffic.requests[NAME, record.outcome] += 1

    async def _refuse(self, connection: _Connection) -> None:
        connection.transport.write(REFUSAL)
        await connection.flushed(REFUSAL_TIMEOUT_S)


def _who(caller: Peer | None, asked: Asked | None) -> audit.Caller:
    """Return who asks, in the unit that systemd asks for."""
    if caller is None:
        return audit.caller(NAME, None)
    unit = asked.unit if asked else None
    return audit.caller(NAME, Peer(caller.pid, caller.uid, caller.gid, caller.groups, unit))


class _Connection(asyncio.Protocol):
    """One connection of systemd's. ``gone`` is set when it is lost; ``kept`` is its name in the store."""

    transport: asyncio.Transport

    def __init__(self, door: CredentialsDoor, kept: str | None = None) -> None:
        self._door = door
        self.kept = kept
        self._writable = asyncio.Event()
        self.gone: Final = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # a stream socket's
        self.transport = transport
        transport.set_write_buffer_limits(0)
        self._writable.set()
        self._door.begin(self)

    def eof_received(self) -> bool:
        """Systemd asks by its address only and may close its half: the answer is still wanted."""
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        del exc
        self.gone.set()

    async def flushed(self, seconds: float) -> None:
        """Wait until all that was written has left, the other end has gone, or the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await any_of(self._writable, self.gone)
