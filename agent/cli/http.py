"""One HTTP request over a Unix socket, with the socket module only: http.client would cost 20 ms to import.

One deadline holds for all of it: to connect, to send, and to every byte that comes back. There is no way to a
value here: :func:`ask` takes the targets of :data:`ALLOWED` and no other, :func:`metrics` one.
"""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING, Any

from agent.cli.answer import AnswerError, checked, clean

if TYPE_CHECKING:
    from typing import Final

ALLOWED: Final = (
    *("/v1/secrets", "/v1/watch", "/v1/health/ready"),
    *("/v1/status", "/v1/refresh", "/v1/explain"),
)
"""The paths that this command asks for: none of them answers with a value."""
MAX_BYTES: Final = 4 * 1024 * 1024
ANSWER_S: Final = 10.0
CONNECT_AGAIN_S: Final = 0.05
_LINES: Final = re.compile(rb"[ -~\n]+\n")

__all__ = [
    "ALLOWED",
    "ANSWER_S",
    "Answer",
    "AnswerError",
    "PermissionDeniedError",
    "UnreachableError",
    "ask",
    "metrics",
]


class UnreachableError(Exception):
    """Nobody answers at the socket; the text says what to look at."""


class PermissionDeniedError(Exception):
    """The socket's permissions, or the agent, refuse this user."""


class Answer:
    """A status and a JSON object, whose members are checked and cleaned."""

    __slots__ = ("content", "retry_after", "status")

    def __init__(self, status: int, content: dict[str, Any], retry_after: float) -> None:
        self.status = status
        self.content = content
        self.retry_after = retry_after


def ask(path: str, method: str, target: str, seconds: float = ANSWER_S) -> Answer:
    """Return the agent's answer, which must be there, whole, within ``seconds``.

    Raises:
        UnreachableError, PermissionDeniedError, AnswerError: as their names say.
    """
    if target.partition("?")[0] not in ALLOWED:
        raise ValueError("this command does not ask for that")
    status, retry_after, untrusted = _asked(path, method, target, seconds)
    return Answer(status, checked(untrusted) if untrusted else {}, retry_after)


def metrics(path: str, seconds: float = ANSWER_S) -> bytes:
    """Return the agent's metrics, as Prometheus reads them.

    Raises:
        UnreachableError, PermissionDeniedError, AnswerError: as their names say.
    """
    status, _, untrusted = _asked(path, "GET", "/metrics", seconds)
    if status == 403:  # noqa: PLR2004  # RFC 9110
        raise PermissionDeniedError(f"{clean(path)}: the agent refuses this user")
    if status != 200 or not _LINES.fullmatch(untrusted):  # noqa: PLR2004  # RFC 9110
        raise AnswerError(f"the agent answered HTTP {status}, and no metrics")
    return untrusted


def _asked(path: str, method: str, target: str, seconds: float) -> tuple[int, float, bytes]:
    """Return status, seconds to wait before the next attempt, and body."""
    end = time.monotonic() + seconds
    request = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    where = clean(path)
    try:
        untrusted = _exchange(path, request, end)
    except PermissionError:
        raise PermissionDeniedError(f"this user may not connect to {where}") from None
    except TimeoutError:
        raise UnreachableError(f"{where}: no whole answer within {seconds:.3g} s") from None
    except (OSError, ValueError) as error:  # a path may be too long, or hold what no path can
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreachableError(f"{where}: {reason or clean(error)}") from None
    if not untrusted:
        raise UnreachableError(f"{where}: closed without an answer")
    return _parse(untrusted)


def _exchange(path: str, request: bytes, end: float) -> bytes:
    received = bytearray()
    with socket.socket(socket.AF_UNIX) as connection:
        _connect(connection, path, end)
        _wait(connection, end)
        connection.sendall(request)  # socket.sendall takes its time-out for the whole
        while chunk := _wait(connection, end).recv(65536):
            received += chunk
            if len(received) > MAX_BYTES:
                raise AnswerError("the answer is longer than allowed")
    return bytes(received)


def _connect(connection: socket.socket, path: str, end: float) -> None:
    """Connect; where the queue of the socket is full (EAGAIN, connect(2)) try again until the end."""
    connection.settimeout(0.0)
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError from None
            time.sleep(CONNECT_AGAIN_S)


def _wait(connection: socket.socket, end: float) -> socket.socket:
    """Let the next operation take what is left."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection


def _parse(untrusted: bytes) -> tuple[int, float, bytes]:
    head, separator, body = untrusted.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    version, _, status = lines[0].partition(b" ")
    if not separator or not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
        raise AnswerError("the answer is not HTTP")
    pairs = (line.partition(b":") for line in lines[1:])
    headers = {key.strip().lower(): value.strip() for key, _, value in pairs}
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != str(len(body)).encode():
        raise AnswerError("the answer is truncated")
    retry = headers.get(b"retry-after", b"1")
    seconds = float(retry[:9]) if retry.isdigit() else 1.0
    return int(status[:3]), max(seconds, CONNECT_AGAIN_S), body
