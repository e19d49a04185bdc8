"""Reads the secrets of this VPS from vps-secrets-agent, at start and whenever one changes.

Standard library only. What the agent answers: docs/socket-api.md. No repr or error here shows a value.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import http.client
import json
import os
import random
import socket
import threading
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

Value: TypeAlias = "str | bytes"
"""Text, or bytes where the value is not UTF-8."""

SOCKET = "/run/vps-secrets/app.sock"
WATCH_S = 60
"""One question "has anything changed?"."""
ANSWER_S = 30.0
"""Every other answer; and how long after WATCH_S a watch may be late."""
PAUSE_S, LONGEST_PAUSE_S = 0.25, 30.0
"""Before the second attempt (it doubles), and at most."""


class SecretsError(Exception):
    """Why the agent gave no answer, or another than asked for. ``status`` is HTTP's, 0 without an answer."""

    def __init__(self, reason: str, status: int = 0, retry_after: float = 0, *, passes: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.passes = passes
        """Whether asking again can help without anybody doing something first."""


class Secrets:
    """The secrets that this process may read, by name, all of one generation.

    ``path`` defaults to $VPS_SECRETS_SOCKET, else /run/vps-secrets/app.sock. The constructor waits
    ``timeout`` seconds at most for the agent and a value of all ``names``; then it raises SecretsError.
    """

    def __init__(self, path: str | None = None, *, names: Sequence[str] = (), timeout: float = 60.0) -> None:
        self._path = path or os.environ.get("VPS_SECRETS_SOCKET", SOCKET)
        self._closed = threading.Event()
        self._asking: set[socket.socket] = set()
        self._guard = threading.Lock()  # of both, against a close() in another thread
        self._held: tuple[int, MappingProxyType[str, Value]] = (0, MappingProxyType({}))
        end, attempt = time.monotonic() + timeout, 0
        while (error := self._missing(names)) is not None:
            pause = _pause(attempt, error)
            if not error.passes or time.monotonic() + pause > end:
                self.close()
                raise error
            time.sleep(pause)
            attempt += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Value:
        return self._held[1][name]

    def __contains__(self, name: object) -> bool:
        return name in self._held[1]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._held[1]))

    def __len__(self) -> int:
        return len(self._held[1])

    def __repr__(self) -> str:
        return f"Secrets(generation {self.generation}: {', '.join(self)})"

    @property
    def generation(self) -> int:
        """Another one whenever a value differs."""
        return self._held[0]

    def previous(self, name: str) -> Value | None:
        """Return the value before the last rotation, or None where the agent has none any more.

        Raises:
            SecretsError: the agent does not say.
        """
        try:
            body = self._ask(f"/v1/secrets/{quote(name, safe='')}?version=previous")[1]
        except SecretsError as error:
            if error.status == http.client.NOT_FOUND:
                return None
            raise
        with contextlib.suppress(UnicodeDecodeError):
            return body.decode()
        return body

    def changes(self, problem: Callable[[SecretsError], object] = lambda _: None) -> Iterator[list[str]]:
        """Yield the names that changed, after each change, until :meth:`close`; the values are the new ones.

        An agent that is away is asked again, with pauses of 30 s at most; ``problem`` gets the reason.
        """
        attempt = 0
        while not self._closed.is_set():
            try:
                target = f"/v1/watch?after={self.generation}&timeout={WATCH_S}"
                changed = self._ask(target, WATCH_S + ANSWER_S)[0] == http.client.OK
                names = self._read() if changed else []
                attempt = 0
            except SecretsError as error:
                if not self._closed.is_set():
                    problem(error)
                self._closed.wait(_pause(attempt, error))
                attempt, names = attempt + 1, []
            if names:
                yield names

    def close(self) -> None:
        """End :meth:`changes`, also in another thread; the values stay."""
        with self._guard:
            self._closed.set()
            for wire in self._asking:
                with contextlib.suppress(OSError):  # the agent was faster
                    wire.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits for an answer

    def _missing(self, names: Sequence[str]) -> SecretsError | None:
        try:
            self._read()
        except SecretsError as error:
            return error
        missing = ", ".join(name for name in names if name not in self)
        return SecretsError(f"no value yet: {missing}; vps-secrets explain says why") if missing else None

    def _read(self) -> list[str]:
        body = self._ask("/v1/bundle")[1]
        bundle: Any = None
        with contextlib.suppress(ValueError):  # this error quotes what it read: values
            bundle = json.loads(body)
        if not isinstance(bundle, dict) or not isinstance(bundle.get("generation"), int):
            raise SecretsError("/v1/bundle: the answer is no bundle")
        values: dict[str, Value] = {
            name: value if isinstance(value, str) else base64.b64decode(value["base64"])
            for name, value in bundle["secrets"].items()
        }
        former, self._held = self._held[1], (bundle["generation"], MappingProxyType(values))
        return sorted(n for n in {*values, *former} if values.get(n) != former.get(n))

    def _get(self, target: str, limit: float) -> tuple[http.client.HTTPResponse, bytes]:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(ANSWER_S)
            wire.connect(self._path)
            wire.settimeout(limit)
            with self._guard:
                if self._closed.is_set():
                    raise OSError(errno.ECONNABORTED, "closed")
                self._asking.add(wire)
            try:
                connection = http.client.HTTPConnection("localhost")
                connection.sock = wire
                connection.request("GET", target, headers={"Connection": "close"})
                with connection.getresponse() as answer:
                    return answer, answer.read()
            finally:
                with self._guard:
                    self._asking.remove(wire)

    def _ask(self, target: str, limit: float = ANSWER_S) -> tuple[int, bytes]:
        try:
            answer, body = self._get(target, limit)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            passes = not isinstance(error, PermissionError)
            failed = SecretsError(f"{target}: {self._path}: {reason}", passes=passes)
        else:
            if answer.status < http.client.MULTIPLE_CHOICES:
                return answer.status, body
            after = answer.headers.get("Retry-After", "")
            wait = float(after) if after.isdigit() else 0.0
            passes = answer.status >= http.client.TOO_MANY_REQUESTS
            reason = f"{target}: {answer.status} {_words(body)}"
            failed = SecretsError(reason, answer.status, wait, passes=passes)
        raise failed  # outside: no answer of the agent hangs on it as __context__


async def changes(
    secrets: Secrets, problem: Callable[[SecretsError], object] = lambda _: None
) -> AsyncIterator[list[str]]:
    """As ``secrets.changes()``, for asyncio; closes ``secrets`` when it ends or its task is cancelled.

    Make ``secrets`` by ``await asyncio.to_thread(Secrets)``: that waits for the agent.
    """
    loop, arrived = asyncio.get_running_loop(), asyncio.Queue[list[str]]()

    def watch() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            for names in secrets.changes(lambda error: loop.call_soon_threadsafe(problem, error)):
                loop.call_soon_threadsafe(arrived.put_nowait, names)

    threading.Thread(target=watch, name="vps-secrets", daemon=True).start()
    try:
        while True:
            yield await arrived.get()
    finally:
        secrets.close()


def _words(body: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(body)
        return f"{said.get('title', '')} {said.get('detail', '')}".strip()
    return "without a reason"


def _pause(attempt: int, error: SecretsError) -> float:
    """Return seconds, with full jitter: a fleet that lost its agents at once does not come back at once."""
    if error.retry_after:
        return error.retry_after * random.uniform(1, 1.25)
    return random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2 ** min(attempt, 10)))
