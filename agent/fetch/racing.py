"""Connecting to a name with several addresses, some of which may be dead: they are raced (RFC 8305).

The standard library tries one address after the other, each for the whole time-out. Here a further address
is tried a short while after the last, the families taking turns, and the first that answers is taken. One
time-out bounds all of it. Name resolution is the system's and has none: whoever calls bounds it.
"""

from __future__ import annotations

import errno
import itertools
import os
import selectors
import socket
import time
from typing import Final, Self

DELAY_S: Final = 0.25
"""How long an attempt has a head start on the next (RFC 8305, 5: the recommended value)."""
_MOST: Final = 16
"""How many addresses are tried; a name of a service has a handful."""


def connect(host: str, port: int, timeout: float) -> socket.socket:
    """Return a connection to any address of ``host``, made within ``timeout`` (s), then its time-out.

    Raises:
        socket.gaierror: the name does not resolve.
        TimeoutError: no address answered in time.
        OSError: every address refused; the error is the first one's.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    places = interleaved([(family, address) for family, _, _, _, address in found])[:_MOST]
    if not places:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    with _Race(timeout) as race:
        connection = race.run(places, min(DELAY_S, timeout / (len(places) + 1)))
    connection.settimeout(timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


Place = tuple[int, tuple[object, ...]]
"""Address family, and an address as :mod:`socket` takes it."""


def interleaved(places: list[Place]) -> list[Place]:
    """Return the places in their order, but with the families taking turns (RFC 8305, 4)."""
    families = dict.fromkeys(family for family, _ in places)
    columns = [[place for place in places if place[0] == family] for family in families]
    return [place for turn in itertools.zip_longest(*columns) for place in turn if place is not None]


class _Race:
    """The attempts that are under way. Leaving it closes every one that has not won."""

    def __init__(self, timeout: float) -> None:
        self._end = time.monotonic() + timeout
        self._selector = selectors.DefaultSelector()
        self._running: set[socket.socket] = set()
        self._error: OSError | None = None

    def run(self, places: list[Place], delay: float) -> socket.socket:
        """Return the first connection that is made."""
        waiting = list(places)
        while True:
            if waiting:
                self._begin(*waiting.pop(0))
            elif not self._running:
                raise self._error or TimeoutError
            left = self._end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if won := self._wait(min(delay, left) if waiting else left):
                return won

    def _begin(self, family: int, address: tuple[object, ...]) -> None:
        """Begin an attempt; an address that can't even be tried, as of a family without a route, is over."""
        attempt = None
        try:
            attempt = socket.socket(family, socket.SOCK_STREAM)
            attempt.settimeout(0)
            self._running.add(attempt)
            self._selector.register(attempt, selectors.EVENT_WRITE)
            attempt.connect(address)
        except BlockingIOError:
            pass  # under way
        except OSError as error:
            self._over(attempt, error)

    def _wait(self, seconds: float) -> socket.socket | None:
        """Return a connection that is made within ``seconds``; sooner None where an attempt failed."""
        if not self._running:
            return None
        for key, _ in self._selector.select(seconds):
            attempt = key.fileobj
            assert isinstance(attempt, socket.socket)  # noqa: S101  # _begin registers nothing else
            if not (number := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                self._running.discard(attempt)
                return attempt
            self._over(attempt, OSError(number, os.strerror(number)))
        return None

    def _over(self, attempt: socket.socket | None, error: OSError) -> None:
        self._error = self._error or error
        if attempt in self._running and attempt is not None:
            self._running.discard(attempt)
            self._selector.unregister(attempt)
        if attempt is not None:
            attempt.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for attempt in self._running:
            attempt.close()
