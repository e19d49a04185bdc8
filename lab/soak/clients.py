"""The application's side of the soak: readers that check every value, watchers that come and go."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Self

from lab.testbed.running import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Truth:
    """The values that a reader may get: of each name the last two, for a rotation takes a cycle to arrive."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[bytes, ...]] = {}

    def put(self, name: str, value: bytes) -> None:
        """Note a value that is about to be written."""
        self._values[name] = (value, *self._values.get(name, ()))[:2]

    def holds(self, name: str, value: bytes) -> bool:
        """Return whether a reader may have got this."""
        return value in self._values[name]

    def names(self) -> list[str]:
        """Return the names that exist."""
        return list(self._values)


class Clients:
    """Threads that use the app socket until the end; ``told`` counts what they saw, never a value."""

    def __init__(self, path: Path, truth: Truth, watchers: int) -> None:
        self._path: Final = path
        self._truth: Final = truth
        self._random: Final = random.Random(1)
        self._end: Final = threading.Event()
        self.told: Final = Counter[str]()
        self._threads: Final = [
            threading.Thread(target=self._forever, args=(self._read,)),
            *(threading.Thread(target=self._forever, args=(self._watch,)) for _ in range(watchers)),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def caller_limits(self, clients: int) -> None:
        """Connect many at once and go away without a word."""
        with contextlib.ExitStack() as stack:
            for _ in range(clients):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(self._path))
        self.told["connected and left"] += clients

    def _forever(self, act: Callable[[], None]) -> None:
        while not self._end.is_set():
            try:
                act()
            except OSError as error:
                self.told[f"failed: {type(error).__name__}"] += 1
                self._end.wait(0.5)

    def _read(self) -> None:
        """Read on one kept-alive connection for a while."""
        connection = UnixConnection(self._path)
        for _ in range(40):
            if self._end.wait(0.1):
                break
            name = self._random.choice(self._truth.names())
            connection.request("GET", f"/v1/secrets/{name}")
            answer = connection.getresponse()
            value = answer.read()
            right = answer.status == 200 and self._truth.holds(name, value)  # noqa: PLR2004  # HTTP
            self.told["read" if right else f"WRONG: status {answer.status}"] += 1
        connection.close()

    def _watch(self) -> None:
        """Watch for a change, or go away before there is one."""
        leaves = self._random.random() < 0.3  # noqa: PLR2004  # a third
        patience = self._random.uniform(1.0, 12.0)
        connection = UnixConnection(self._path, timeout=patience if leaves else 60.0)
        try:
            after = self._generation(connection)
            connection.request("GET", f"/v1/watch?after={after}&timeout={patience:.0f}")
            answer = connection.getresponse()
            answer.read()
            self.told[
                {200: "watched: told", 204: "watched: time was up"}.get(answer.status, "WRONG: watch")
            ] += 1
        except TimeoutError:
            self.told["watched: left"] += 1
        finally:
            connection.close()
        time.sleep(self._random.uniform(0.0, 1.0))

    @staticmethod
    def _generation(connection: UnixConnection) -> int:
        connection.request("GET", "/v1/secrets")
        return int(json.loads(connection.getresponse().read())["generation"])
