"""Addresses behind which nothing answers: a listener whose queue is full, so that the kernel drops SYNs."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

_FILL: Final = 4


class DeadAddresses:
    """Each of ``hosts`` at ``port``: a connection to it hangs. Use as a context manager."""

    def __init__(self, hosts: Iterable[str], port: int) -> None:
        self._hosts, self._port = tuple(hosts), port
        self._sockets = contextlib.ExitStack()

    def __enter__(self) -> Self:
        for host in self._hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = self._sockets.enter_context(socket.socket(family))
            listener.bind((host, self._port))
            listener.listen(0)
            for _ in range(_FILL):  # the queue of complete connections takes one or two
                waiting = self._sockets.enter_context(socket.socket(family))
                waiting.settimeout(0)
                waiting.connect_ex((host, self._port))
            self._until_it_hangs(host, family)
        return self

    def _until_it_hangs(self, host: str, family: socket.AddressFamily) -> None:
        for _ in range(50):
            with socket.socket(family) as attempt:
                attempt.settimeout(0.2)
                try:
                    attempt.connect((host, self._port))
                except TimeoutError:
                    return
                time.sleep(0.05)
        raise AssertionError(f"{host} answers")

    def __exit__(self, *_: object) -> None:
        self._sockets.close()
