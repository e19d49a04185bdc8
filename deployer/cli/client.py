"""The deployer's API, as the command uses it: HTTP over its Unix socket; what it refuses, in words."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from common import untrusted_json
from common.errors import VpsSecretsError
from common.untrusted_json import MalformedError
from deployer.unix_http import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT_S: Final = 90.0
"""An external value is answered when it is stored."""
MAX_ANSWER: Final = 16 * 1024 * 1024
MAX_WORDS: Final = 1000
REFUSED: Final = 400
FORBIDDEN: Final = 403
OK, NO, USAGE, UNREACHABLE, PERMISSION = 0, 1, 2, 3, 4
"""Exit statuses, those of ``vps-secrets``."""


class ApiError(VpsSecretsError):
    """The API can't be reached, or refuses; ``status`` is what the command exits with."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


class Client:
    """The API at a socket. Every method may raise :class:`ApiError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, *path: str, **query: str | int | None) -> dict[str, Any]:
        """Return what is there."""
        asked = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", _join(path) + (f"?{urlencode(asked)}" if asked else ""))

    def put(self, *path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Wish something."""
        return self._call("PUT", _join(path), json.dumps(body).encode(), "application/json")

    def give(self, *path: str, value: bytes | bytearray) -> dict[str, Any]:
        """Hand a value over, byte for byte."""
        return self._call("PUT", _join(path), value, "application/octet-stream")

    def post(
        self,
        *path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Order something."""
        content = None if body is None else json.dumps(body).encode()
        target = _join(path) + (f"?{urlencode(query)}" if query else "")
        return self._call("POST", target, content, "application/json" if body is not None else "")

    def _call(
        self, method: str, path: str, body: bytes | bytearray | None = None, kind: str = ""
    ) -> dict[str, Any]:
        connection = UnixConnection(self._path, TIMEOUT_S)
        headers = {"Accept": "application/json", "Idempotency-Key": secrets.token_hex(16)}
        if kind:
            headers["Content-Type"] = kind
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            status, content = response.status, response.read(MAX_ANSWER)
        except PermissionError:
            words = f"this user may not use {self._path}; the groups of [[role]] in deployer.toml may"
            raise ApiError(words, PERMISSION) from None
        except (OSError, http.client.HTTPException):
            words = f"nothing answers at {self._path}: systemctl status vps-secrets-deployer-api"
            raise ApiError(words, UNREACHABLE) from None
        finally:
            connection.close()
        try:
            document = untrusted_json.mapping(untrusted_json.parse(content, "the answer"), "the answer")
        except MalformedError:
            raise ApiError(
                "the answer is not as documented; does another program listen there?", NO
            ) from None
        if status >= REFUSED:
            raise ApiError(_words(document), PERMISSION if status == FORBIDDEN else NO)
        return document


def wake_worker(path: Path) -> None:
    """Tell the worker that there is something to do. Where it does not answer, its next sweep finds it."""
    connection = UnixConnection(path, TIMEOUT_S)
    with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
        connection.request("POST", "/wake", body=b"{}", headers={"Content-Type": "application/json"})
        connection.getresponse().read(MAX_ANSWER)


def _join(path: tuple[str, ...]) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in path)


def _words(problem: dict[str, Any]) -> str:
    """Return a problem (RFC 9457) in one line."""
    found = problem.get("errors")
    wrong = [f"{one.get('where')} {one.get('rule')}" for one in found or () if isinstance(one, dict)]
    parts = [problem.get("title"), "; ".join(wrong) or problem.get("detail")]
    return untrusted_json.printable(
        ": ".join(part for part in parts if isinstance(part, str) and part)
        or "the API refuses, and does not say why",
        MAX_WORDS,
    )
