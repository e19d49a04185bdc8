"""A fetch program behind a Unix socket that answers as it is told: the real protocol, no cloud behind it."""

from __future__ import annotations

import select
import socket
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.core import wire, wire_watch
from agent.core.errors import WireError
from agent.core.rotation import Entry, Reading, Unread
from agent.core.secret import SecretMetadata
from common.names import SecretName, Version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.core.errors import Failure
    from agent.core.wire_watch import Watch

VPS_ID = "vps-prod-001"
CONTAINER = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"

CALLS = {"keystone": {"ok": 0, "refused": 0, "failed": 0}, "barbican": {"ok": 1, "refused": 0, "failed": 0}}
TIMINGS = {"start": 0.1, "login": 0.0, "list": 0.01, "payloads": 0.0}


@dataclass
class World:
    """What the container lists and what Barbican would hand out; tests change it between cycles."""

    entries: list[tuple[str, str]] = field(default_factory=list)
    payloads: dict[str, bytes] = field(default_factory=dict, repr=False)
    unread: dict[str, Unread] = field(default_factory=dict)
    expires: dict[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    rejected: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    created: float = 1_700_000_000.0
    listed: bool | None = None
    calls: int = 1
    """How many to Barbican a cycle is said to cost."""
    acknowledged: tuple[str, ...] = ()
    """What the container says is served."""
    acknowledge_problem: str = ""
    """Why the container can't be told."""
    credential_expires: float | None = None

    def put(self, name: str, payload: bytes) -> str:
        """Add a version of a name and return it."""
        version = str(uuid.uuid4())
        self.entries.append((name, version))
        self.payloads[version] = payload
        return version

    def rotate(self, name: str, payload: bytes) -> str:
        """Replace the versions of a name by a new one."""
        self.entries = [entry for entry in self.entries if entry[0] != name]
        self.created += 1
        return self.put(name, payload)

    def forget(self) -> None:
        """Remove what the container says is served, as its owner may."""
        self.acknowledged = ()

    def reply(self, request: wire.Request) -> wire.Reply:
        """Return what the real program would learn."""
        if self.failure is not None:
            return wire.Reply(
                request.nonce, VPS_ID, CONTAINER, None, self.failure, calls=CALLS, timings=TIMINGS
            )
        entries = tuple(Entry(SecretName(name), Version(version)) for name, version in self.entries)
        new = [entry for entry in entries if entry.version not in request.known]
        read = {
            entry.version: SecretMetadata(
                entry.name,
                entry.version,
                len(self.payloads[entry.version]),
                "application/octet-stream",
                self.created,
                self.expires.get(entry.version),
            )
            for entry in new
            if entry.version not in self.unread
        }
        if request.serves is not None and not read and not self.acknowledge_problem:
            self.acknowledged = (request.serves,)
        unread = {e.version: self.unread[e.version] for e in new if e.version in self.unread}
        return wire.Reply(
            request.nonce,
            VPS_ID,
            CONTAINER,
            reading=Reading(entries, read, unread),
            failure=None,
            payloads={version: self.payloads[version] for version in read},
            rejected=self.rejected,
            notices=self.notices,
            calls=CALLS | {"barbican": CALLS["barbican"] | {"ok": self.calls}},
            timings=TIMINGS,
            token_state=b"{}",
            listed=self.listed,
            acknowledged=self.acknowledged,
            acknowledge_problem=self.acknowledge_problem,
            credential_expires=self.credential_expires,
        )


class FetchServer:
    """Listens on ``path``. ``answer`` turns a request into bytes, or None to hang until the end."""

    def __init__(self, path: Path, world: World) -> None:
        self.world = world
        self.answer: Callable[[wire.Request], bytes | None] = self.honest
        self.requests: list[wire.Request] = []
        self.watch: Callable[[Watch], bytes | None] = lambda _: None
        """Turns a watch over the beacon into bytes; asked again where there is None, until serve has gone."""
        self.watches: list[Watch] = []
        self.left = 0
        """How many hanging watches serve has gone away from."""
        self._over = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def honest(self, request: wire.Request) -> bytes:
        """Answer as the real program does."""
        return wire.encode_reply(self.world.reply(request), request.known)

    def close(self) -> None:
        """End it, and whoever hangs."""
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            untrusted = b""
            while chunk := connection.recv(65536):
                untrusted += chunk
            if wire_watch.bounds_of(untrusted) is wire_watch.WATCH:
                watch = wire_watch.decode_watch(untrusted)
                self.watches.append(watch)
                poller = select.poll()
                poller.register(connection, 0)  # POLLHUP
                while (reply := self.watch(watch)) is None:
                    if poller.poll(20):
                        self.left += 1
                        return
            else:
                try:
                    request = wire.decode_request(untrusted)
                except WireError:
                    return  # serve ended while it was sending
                self.requests.append(request)
                reply = self.answer(request)
            if reply is None:
                self._over.wait(60)
                return
            try:
                connection.sendall(reply)
            except OSError:
                return  # serve has had enough
