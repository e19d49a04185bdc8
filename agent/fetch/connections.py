"""requests and urllib3 over connections of ours: raced, and strict about how an answer is framed.

urllib3 1.26 and 2 make a connection in ``_new_conn``, and http.client an answer of ``response_class``: both
are replaced here, and nothing else is.
"""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any, Final

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from agent.fetch import framing, network_errors, racing
from agent.fetch.tunnel import STRAIGHT, Way

if TYPE_CHECKING:
    import socket

    import requests

MAX_BODY: Final = 1024 * 1024
_BROKEN_OFF: Final = (
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.IncompleteRead,
    http.client.HTTPException,
    ValueError,  # http.client's, of a chunk whose size is none
)


class UnusableBodyError(Exception):
    """The body is not one that can be taken; the text is advice for people."""


class _Plain(HTTPConnection):
    response_class = framing.StrictResponse

    def _new_conn(self) -> socket.socket:
        """Connect to whichever address of the host answers first; urllib3 wraps an OSError itself."""
        return racing.connect(self.host, self.port, _seconds(self.timeout))


class _Tls(HTTPSConnection):
    response_class = framing.StrictResponse
    way: Way = STRAIGHT

    def _new_conn(self) -> socket.socket:
        """Connect as above, or have a proxy do so; TLS is spoken with the host over what this returns."""
        return self.way.connect(self.host, self.port, _seconds(self.timeout))


def _seconds(timeout: Any) -> float:
    return float(timeout)  # Transport and Line give one to every request


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


def _tls_pool(way: Way) -> type[HTTPSConnectionPool]:
    """Return a pool whose connections take this way: urllib3 makes both by their class alone."""
    connection = type("_TlsByWay", (_Tls,), {"way": way})
    return type("_TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": connection})


class RacedAdapter(HTTPAdapter):
    """An adapter of requests over such connections."""

    def __init__(self, way: Way = STRAIGHT, **options: Any) -> None:
        self._way: Final = way
        super().__init__(**options)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools."""
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _tls_pool(self._way)}


def whole_body(response: requests.Response) -> bytes:
    """Return the whole body; the connection goes back to its pool, or is closed where the body is refused.

    Raises:
        UnusableBodyError: it is compressed, too long, was cut off, or its end can't be known.
    """
    try:
        return _read(response)
    except UnusableBodyError:
        response.close()
        raise


def _read(response: requests.Response) -> bytes:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UnusableBodyError("the answer is compressed although that was not asked for")
    problem = framing.problem(response.headers, response.raw.version)
    if problem:
        raise UnusableBodyError(f"{problem}: check what is in between")
    announced = response.headers.get("Content-Length")
    body = bytearray()
    try:
        while len(body) <= MAX_BODY:
            part = response.raw.read(MAX_BODY + 1 - len(body), decode_content=False)
            if not part:
                break
            body += part
        cut = announced is not None and len(body) < min(int(announced), MAX_BODY)
        reason = "the answer was cut off on the way" if cut else ""
    except _BROKEN_OFF as error:
        reason = _why(error)
    if len(body) > MAX_BODY:
        reason = f"the answer is longer than {MAX_BODY} bytes: check the address"
    if reason:
        raise UnusableBodyError(reason)
    return bytes(body)


def _why(error: BaseException) -> str:
    for cause in network_errors.causes(error):
        if isinstance(cause, framing.FramingError):
            return f"{cause}: check what is in between"
    return "the answer was cut off on the way"
