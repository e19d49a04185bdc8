"""Reads all values from app.sock, and waits for news there: as any application does."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agent.run.errors import NotYetError, RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_S: Final = 30.0
WATCH_S: Final = 60
MAX_BYTES: Final = 64 * 1024 * 1024
_TRANSIENT: Final = http.client.TOO_MANY_REQUESTS


@dataclass(frozen=True, slots=True)
class Bundle:
    """All values that this user may read, of one moment."""

    generation: int
    values: Mapping[str, bytes] = field(repr=False)
    pending: tuple[str, ...] = ()


def read(path: str) -> Bundle:
    """Return what there is now.

    Raises:
        NotYetError: the agent is away or not ready. RunError: it refuses, or answers something else.
    """
    status, body = _ask(path, "/v1/bundle", ANSWER_S)
    bundle = _object(body) if status == http.client.OK else {}
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):  # these errors quote values
        values = {name: _bytes(value) for name, value in bundle["secrets"].items()}
        return Bundle(int(bundle["generation"]), values, tuple(map(str, bundle.get("pending", ()))))
    raise RunError(f"{path}: the answer is no bundle; is another program listening there?")


def changed(path: str, after: int) -> bool:
    """Wait for up to 60 s and return whether something has changed after a generation.

    Raises:
        RunError: as of :func:`read`.
    """
    target = f"/v1/watch?after={after}&timeout={WATCH_S}"
    return _ask(path, target, WATCH_S + ANSWER_S)[0] == http.client.OK


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str, target: str, seconds: float) -> tuple[int, bytes]:
    connection = _Connection(path, seconds)
    try:
        connection.request("GET", target, headers={"Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(MAX_BYTES)
    except PermissionError:
        failed = RunError(f"this user may not connect to {path}: be in the group that owns the socket")
    except (OSError, http.client.HTTPException, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else type(error).__name__
        failed = NotYetError(f"{path}: {reason}; is the agent running? systemctl status vps-secrets-agent")
    else:
        if answer.status < http.client.MULTIPLE_CHOICES:
            return answer.status, body
        kind = NotYetError if answer.status >= _TRANSIENT else RunError
        failed = kind(f"the agent answered {answer.status}: {_reason(body)}")
    finally:
        connection.close()
    raise failed  # outside: no answer of the agent hangs on it as __context__


def _reason(body: bytes) -> str:
    said = _object(body)
    words = "; ".join(str(said[key]) for key in ("title", "detail") if said.get(key))
    return "".join(c for c in words if c.isprintable()) or "without a reason"


def _object(body: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(body)
        if isinstance(content, dict):
            return content
    return {}


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"], validate=True)
