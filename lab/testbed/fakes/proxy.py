"""A proxy in front of a real Keystone or Barbican: notes every request, and breaks what it is told to.

A fault is a function that answers one request in its own way (lab/testbed/fakes/faults.py), perhaps with
the real answer in its hands (:meth:`Handler.fetch`). It is planned for requests whose path contains a text,
and for a span of time, on any clock: the newest plan that fits wins, without one the real answer goes back as
it is.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from lab.testbed.fakes.handler import AnsweringHandler

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

UPSTREAM_S = 30.0
_HOP = {"transfer-encoding", "connection", "content-length"}


@dataclass(frozen=True)
class Real:
    """The real service's answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """A fault for requests whose method and path contain ``part``, from ``begin`` until ``end``."""

    part: str
    fault: Callable[[Handler], None]
    begin: float
    end: float


class Handler(AnsweringHandler):
    """One connection of a client."""

    server: _Server

    @property
    def service(self) -> str:
        """Which service is behind."""
        return self.server.proxy.service

    @property
    def released(self) -> threading.Event:
        """Set when whatever hangs shall go on."""
        return self.server.proxy.released

    def respond(self) -> None:
        """Pass the request on and the answer back, or do what is planned."""
        proxy, line = self.server.proxy, f"{self.command} {self.path}"
        proxy.seen.append(line)
        fault = proxy.fault_for(line)
        with contextlib.suppress(ConnectionError):  # a client that was killed, or has had enough
            if fault is None:
                self.give(self.fetch())
            else:
                fault(self)

    def fetch(self) -> Real:
        """Return the real answer; 502 where there is none."""
        upstream = http.client.HTTPConnection(self.server.proxy.upstream, timeout=UPSTREAM_S)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        try:
            upstream.request(self.command, self.path, self.body or None, headers)
            answer = upstream.getresponse()
            return Real(answer.status, tuple(answer.getheaders()), answer.read())
        except (OSError, http.client.HTTPException):
            return Real(502, (("Content-Type", "text/html"),), b"<html>bad gateway</html>")
        finally:
            upstream.close()

    def give(self, real: Real, *, length: int | None = None) -> None:
        """Send an answer; ``length`` is what it is said to be long."""
        self.send_response_only(real.status)
        for name, value in real.headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(real.body) if length is None else length))
        self.end_headers()
        self.wfile.write(real.body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.proxy = proxy

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Speak TLS, where that is what the proxy does now; the handshake is the connection's thread's."""
        connection, address = super().get_request()
        if self.proxy.tls is not None:
            connection = self.proxy.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def handle_error(self, *_: object) -> None:
        """Stay silent: clients that hang up are what is tested."""


class FaultProxy:
    """In front of the ``service`` at ``url``; ``url`` of the proxy keeps its path. Use as a context manager.

    ``tls`` is the context of connections to come, None for plain HTTP. ``now`` is the clock of the plans.
    """

    def __init__(
        self,
        url: str,
        service: str = "barbican",
        *,
        tls: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self.service, self.upstream, self.tls, self._now = service, parts.netloc, tls, now
        self.seen: list[str] = []
        """Method and path of every request, in their order."""
        self.released = threading.Event()
        self._plans: list[Plan] = []
        self._server = _Server(self)
        self.port = self._server.server_port
        self.url = f"{'https' if tls else 'http'}://localhost:{self.port}{parts.path}"

    def plan(
        self,
        fault: Callable[[Handler], None],
        part: str = "",
        *,
        begin: float = float("-inf"),
        end: float = float("inf"),
    ) -> Plan:
        """Plan a fault."""
        planned = Plan(part, fault, begin, end)
        self._plans.append(planned)
        return planned

    @contextlib.contextmanager
    def faulty(self, fault: Callable[[Handler], None], part: str = "") -> Iterator[None]:
        """Have a fault while the block lasts."""
        planned = self.plan(fault, part)
        try:
            yield
        finally:
            self._plans.remove(planned)

    def fault_for(self, line: str) -> Callable[[Handler], None] | None:
        """Return what is planned now for a request."""
        now = self._now()
        fitting = (
            plan for plan in reversed(self._plans) if plan.begin <= now < plan.end and plan.part in line
        )
        return next((plan.fault for plan in fitting), None)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._server.server_close()


def late(seconds: float) -> Callable[[Handler], None]:
    """Give the real answer after a while."""

    def fault(handler: Handler) -> None:
        handler.released.wait(seconds)
        handler.give(handler.fetch())

    return fault


def reset(handler: Handler) -> None:
    """Reset the connection (RST) instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    handler.close_connection = True
    handler.connection.close()


def half(handler: Handler) -> None:
    """Cut the real answer off in its middle."""
    real = handler.fetch()
    handler.give(Real(real.status, real.headers, real.body[: len(real.body) // 2]), length=len(real.body))
    handler.close_connection = True


def corrupted(handler: Handler) -> None:
    """Flip a bit in every byte of the real answer."""
    real = handler.fetch()
    handler.give(Real(real.status, real.headers, bytes(byte ^ 1 for byte in real.body)))


def mislength(by: int) -> Callable[[Handler], None]:
    """Say that the real answer is longer (shorter, where negative) than it is."""

    def fault(handler: Handler) -> None:
        real = handler.fetch()
        handler.give(real, length=len(real.body) + by)
        handler.close_connection = True

    return fault


def skewed(seconds: float) -> Callable[[Handler], None]:
    """Give the real answer with a Date by a clock that is ahead."""

    def fault(handler: Handler) -> None:
        real = handler.fetch()
        headers = [(name, value) for name, value in real.headers if name.lower() != "date"]
        date = handler.date_time_string(time.time() + seconds)
        handler.give(Real(real.status, (*headers, ("Date", date)), real.body))

    return fault
