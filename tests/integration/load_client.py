"""Callers of every kind, each a process with a uid of its own: load_client.py UID KIND SOCKET SECONDS COUNT.

Started by root, since an interpreter below root's home can't be started by anybody else. Prints JSON when the
time is up.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import selectors
import socket
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

READ = b"GET /v1/secrets/A HTTP/1.1\r\nHost: a\r\n\r\n"
READ_BIG = b"GET /v1/secrets/BIG HTTP/1.1\r\nHost: a\r\n\r\n"
POLL = b"GET /v1/watch?timeout=2 HTTP/1.1\r\nHost: a\r\n\r\n"
STREAM = b"GET /v1/watch HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"


class Load:
    """What all kinds share. ``answers`` counts by status, or by the name of what went wrong."""

    def __init__(self, path: str, seconds: float) -> None:
        self.path = path
        self.end = time.monotonic() + seconds
        self.answers: collections.Counter[str] = collections.Counter()
        self.latencies: dict[str, list[float]] = {"kept": [], "new": []}
        self.crowded = b""

    def goes_on(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self.end

    def connect(self) -> socket.socket:
        """Return a new connection."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)  # without a time-out: that would fail where the queue is full
        connection.settimeout(90)
        return connection

    def count(self, received: bytes) -> None:
        """Count an answer by its status."""
        self.answers[received[9:12].decode("ascii", "replace") or "closed"] += 1
        if received[9:12] == b"503":
            self.crowded = received


def application(load: Load, _: int) -> None:
    """Read a secret on a connection that is kept and on a new one, in turn, and note how long each took."""
    kept = load.connect()
    while load.goes_on():
        for kind in ("kept", "new"):
            began = time.monotonic()
            try:
                connection = kept if kind == "kept" else load.connect()
                connection.sendall(READ)
                received = connection.recv(65536)
                if kind == "new":
                    connection.close()
                load.count(received)
            except OSError as error:
                load.answers[type(error).__name__] += 1
                kept = load.connect()
            load.latencies[kind].append(time.monotonic() - began)
        time.sleep(0.001)


def slow(load: Load, count: int) -> None:
    """Send a byte of a request now and then on each of many connections; replace those that are closed."""
    connections: list[socket.socket | None] = [None] * count
    for turn in itertools.count():
        for index in range(count):
            if not load.goes_on():
                return
            try:
                connection = connections[index]
                if connection is None:
                    connection = connections[index] = load.connect()
                    connection.settimeout(0)
                connection.send(READ[turn % 20 : turn % 20 + 1])
                with contextlib.suppress(BlockingIOError):
                    load.count(connection.recv(65536))
                    raise ConnectionResetError
            except OSError:
                if connections[index] is not None:
                    connections[index].close()  # type: ignore[union-attr]  # just looked
                connections[index] = None
            time.sleep(0.5 / count)


def watch(load: Load, count: int) -> None:
    """Hold many watches: half long polls that ask again, half event streams."""
    selector, polls = selectors.DefaultSelector(), set[socket.socket]()
    for index in range(count):
        made = load.connect()
        made.sendall(POLL if index % 2 else STREAM)
        selector.register(made, selectors.EVENT_READ, made)
        polls |= {made} if index % 2 else set()
    while load.goes_on():
        for key, _ in selector.select(0.1):
            connection = key.data
            received = connection.recv(65536)
            if received[:4] == b"HTTP":
                load.count(received)
            if not received:
                selector.unregister(connection)
                connection.close()
            elif connection in polls:
                connection.sendall(POLL)


def churn(load: Load, _: int) -> None:
    """Open and close as fast as possible, sometimes with a question whose answer is not awaited."""
    while load.goes_on():
        with contextlib.suppress(OSError), load.connect() as connection:
            load.answers["connected"] += 1
            if load.answers["connected"] % 4 == 0:
                connection.sendall(READ)


def hoard(load: Load, count: int) -> None:
    """Ask on and on for something large on each connection, and never read; come again when closed."""
    connections: list[socket.socket] = []
    while load.goes_on():
        while len(connections) < count:
            connections.append(load.connect())
            connections[-1].settimeout(0)
        for connection in list(connections):
            try:
                load.answers["asked"] += connection.send(READ_BIG * 200) // len(READ_BIG)
            except BlockingIOError:
                pass
            except OSError:
                connection.close()
                connections.remove(connection)
        time.sleep(0.01)


def greedy(load: Load, count: int) -> None:
    """Read as fast as possible, many requests at once, on each of many connections."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        made = load.connect()
        made.sendall(READ * 20)
        selector.register(made, selectors.EVENT_READ, made)
    while load.goes_on():
        for key, _ in selector.select(0.1):
            connection = key.data
            answers = connection.recv(65536).count(b"HTTP/1.1 ")
            load.answers["answered"] += answers
            connection.sendall(READ * answers)


def hold(load: Load, count: int) -> None:
    """Open as many connections as are taken, ask once on each, and hold them."""
    held = []
    for _ in range(count):
        try:
            held.append(load.connect())
            with contextlib.suppress(BrokenPipeError):  # it has been refused already
                held[-1].sendall(READ)
            load.count(held[-1].recv(65536))
        except OSError as error:
            load.answers[type(error).__name__] += 1
    print("held", flush=True)  # noqa: T201  # the test waits for it
    while load.goes_on():
        time.sleep(0.05)


KINDS: dict[str, Callable[[Load, int], None]] = {
    made.__name__: made for made in (application, slow, watch, churn, hoard, greedy, hold)
}


def main() -> None:
    """Be one caller."""
    uid, kind, path, seconds, count = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
    load = Load(path, float(seconds))
    KINDS[kind](load, int(count))
    retry = b"\r\nRetry-After: " in load.crowded
    result = {"answers": load.answers, "latencies": load.latencies, "crowdedSaysWhen": retry}
    print(json.dumps(result))  # noqa: T201  # that is its result


if __name__ == "__main__":
    main()
