"""Runs the real fetch program as a watcher of the beacon, as serve would: over a socket, checked whole."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from agent.core import wire, wire_watch
from agent.core.wire_watch import Watch, WatchResult

if TYPE_CHECKING:
    from agent.core.errors import Failure

HEAD = (
    'vps_id = "vps-prod-001"\ncontainer = "0b5a7c5e-2d0e-4c1c-9b0a-3f6f7d7d0b11"\n'
    '[keystone]\nauth_url = "http://127.0.0.1:1/v3"\napplication_credential_id = "none"\n'
)


def configuration(directory: Path, url: str, more: str = "") -> Path:
    """Write a configuration with this beacon and nothing else that works."""
    path = directory / "agent.toml"
    path.write_text(f'{HEAD}[fetch]\nconnect_timeout = "2s"\n[beacon]\nurl = "{url}"\n{more}')
    return path


@dataclass(frozen=True)
class Ended:
    """How a watcher ended; its reply has passed every check of serve's."""

    sight: WatchResult
    status: int
    log: str

    @property
    def failure(self) -> Failure:
        """The failure that was replied."""
        assert self.sight.failure is not None
        return self.sight.failure

    @property
    def seen(self) -> str:
        """What was seen."""
        assert self.sight.seen is not None, str(self.sight.failure)
        return self.sight.seen


class Watcher:
    """One running watcher."""

    def __init__(
        self,
        config: Path,
        seen: str | None = None,
        *,
        interval: float = 0.1,
        lifetime: float = 60.0,
        token_state: bytes = b"",
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._watch = Watch(secrets.token_hex(16), seen, interval, lifetime, token_state)
        self._ours, theirs = socket.socketpair()
        self._log = config.with_suffix(".log")
        with theirs, self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "agent.fetch", "--config", str(config)],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=log,
                cwd=Path(__file__).parents[3],
            )
        self._ours.sendall(wire_watch.encode_watch(self._watch))
        self._ours.shutdown(socket.SHUT_WR)

    def end(self, timeout: float = 60.0) -> Ended:
        """Wait for its reply and its end."""
        self._ours.settimeout(timeout)
        received = b""
        while part := self._ours.recv(65536):
            received += part
        status = self.process.wait(timeout)
        assert received, f"no reply: {self._log.read_text()}"
        assert len(received) == wire.PREFIX_BYTES + wire.remaining(
            received[: wire.PREFIX_BYTES], wire_watch.SIGHT
        )
        return Ended(wire_watch.decode_sight(received, self._watch), status, self._log.read_text())

    def leave(self) -> None:
        """Go away, as a serve that ends does."""
        self._ours.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def look(
    config: Path, seen: str | None = None, token_state: bytes = b"", prefix: tuple[str, ...] = ()
) -> Ended:
    """Look once; ``prefix`` is a command that runs the watcher."""
    with Watcher(config, seen, lifetime=0.0, token_state=token_state, prefix=prefix) as watcher:
        return watcher.end()
