"""One HTTP request over a Unix socket, with the socket module only: http.client would cost 20 ms to import.

Everything that comes back is bounded and checked. There is no way to a value here: :func:`ask` takes the
targets of :data:`ALLOWED` and no other.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Final

ALLOWED: Final = (
    *("/v1/secrets", "/v1/watch", "/v1/health/ready"),
    *("/v1/status", "/v1/refresh", "/v1/explain"),
)
"""The paths that this command asks for: none of them answers with a value."""
MAX_BYTES: Final = 4 * 1024 * 1024
MARGIN_S: Final = 10.0


class UnreachableError(Exception):
    """Nobody answers at the socket; the text says what to look at."""


class PermissionDeniedError(Exception):
    """The socket's permissions, or the agent, refuse this user."""


class AnswerError(Exception):
    """What came back is not an answer of the agent."""


class Answer:
    """A status and a JSON object."""

    __slots__ = ("content", "retry_after", "status")

    def __init__(self, status: int, content: dict[str, Any], retry_after: float) -> None:
        self.status = status
        self.content = content
        self.retry_after = retry_after


def ask(path: str, method: str, target: str, wait: float = 0.0) -> Answer:
    """Return the agent's answer; ``wait`` is how long (s) it may take besides the ordinary.

    Raises:
        UnreachableError, PermissionDeniedError, AnswerError: as their names say.
    """
    if target.partition("?")[0] not in ALLOWED:
        raise ValueError("this command does not ask for that")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(wait + MARGIN_S)
        try:
            connection.connect(path)
            connection.sendall(
                f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            untrusted = _read(connection)
        except PermissionError:
            raise PermissionDeniedError(f"this user may not connect to {path}") from None
        except TimeoutError:
            raise UnreachableError(f"{path}: no answer within {wait + MARGIN_S:.0f} s") from None
        except OSError as error:
            raise UnreachableError(f"{path}: {error.strerror}") from None
    if not untrusted:
        raise UnreachableError(f"{path}: closed without an answer")
    return _parse(untrusted)


def _read(connection: socket.socket) -> bytes:
    received = bytearray()
    while chunk := connection.recv(65536):
        received += chunk
        if len(received) > MAX_BYTES:
            raise AnswerError("the answer is longer than allowed")
    return bytes(received)


def _parse(untrusted: bytes) -> Answer:
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
    try:
        content = json.loads(body) if body else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise AnswerError("the answer is not a JSON object")
    return Answer(int(status[:3]), content, float(retry) if retry.isdigit() else 1.0)
