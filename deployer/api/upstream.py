"""Worker and registrar, over their Unix sockets. What they refuse is told to the caller in our own words.

A given value is in this module for as long as it takes to hand it on: in one buffer, which is cleared.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import aiohttp

from common import untrusted_json
from common.untrusted_json import MalformedError
from deployer.api.problems import (
    ALREADY_CLAIMED,
    CONFLICT,
    NO_SUCH_SECRET,
    NOT_JOINED,
    PART_FAILED,
    REFUSED,
    UNAVAILABLE,
    RequestError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_MOST_ANSWER: Final = 65536
_WAKE_S: Final = 5.0
_VALUE_S: Final = 60.0
_CLAIM_S: Final = 30.0
_DONE: Final = 300
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404
_JOURNAL: Final = "the worker's journal says why"
_REFUSALS: Final = MappingProxyType(
    {
        404: (NO_SUCH_SECRET, "the blueprint of its VPS was changed: look at the VPS again"),
        409: (CONFLICT, f"give it again; if that does not help, {_JOURNAL}"),
        422: (REFUSED, f"{_JOURNAL}: it is too long, or not one that a person gives"),
        424: (NOT_JOINED, "look at the VPS: once it has joined, its state is listed; then give it again"),
    }
)
"""What the worker answers with (deployer/worker/door.py), and our words for it: its own may quote it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a new machine needs to take over its identity; the password is told once and kept nowhere."""

    user_id: str
    one_time_password: str = field(repr=False)


async def wake(worker: Path, vps_id: str) -> bool:
    """Tell the worker that there is something to do. It finds it by itself too, a little later."""
    try:
        status, _ = await _call(worker, "POST", "/wake", {"vps": vps_id}, limit=_WAKE_S)
    except RequestError:
        return False
    return status < _DONE


async def hand_on(worker: Path, vps_id: str, name: str, value: bytearray, operation: str) -> None:
    """Give the worker a value, and wait until it is listed; nothing of it is in any error.

    Raises:
        RequestError: the worker does not answer, or does not take it.
    """
    headers = {"Content-Type": "application/octet-stream", "Operation": operation}
    status, _ = await _call(
        worker, "PUT", f"/vps/{vps_id}/secrets/{name}", value, limit=_VALUE_S, headers=headers
    )
    if status >= _DONE:
        problem, words = _REFUSALS.get(status, (UNAVAILABLE, f"the worker could not store it: {_JOURNAL}"))
        raise RequestError(problem, words)


async def claim(registrar: Path, vps_id: str, how: str = "") -> Identity:
    """Have the registrar hand out an identity.

    ``how`` is nothing; ``again=true``: another one, which ends the former; or ``keep=USER``: that of a user
    that a person made.

    Raises:
        RequestError: it was handed out before, there is none yet, or the registrar does not answer.
    """
    target = f"/vps/{vps_id}/claim" + (f"?{how}" if how else "")
    status, body = await _call(registrar, "POST", target, None, limit=_CLAIM_S)
    if status == _CONFLICT and how.startswith("keep="):
        raise RequestError(
            CONFLICT,
            "its user can't be kept: it was claimed before, is disabled, or is not the one of this name in "
            "the domain of the VPS users; the registrar's journal says which",
        )
    if status == _CONFLICT:
        raise RequestError(ALREADY_CLAIMED, "if that was not you: retire this VPS and make another one")
    if status == _NOT_FOUND:
        raise RequestError(CONFLICT, "there is no account yet: wait for the operation that provisions it")
    if status >= _DONE:
        raise RequestError(
            UNAVAILABLE, f"the registrar answered {status}; its journal says why", retry_after=5
        )
    try:
        answer = untrusted_json.mapping(untrusted_json.parse(body, "the answer"), "the answer")
        user_id = untrusted_json.text(answer.get("userId"), "userId", 64)
        password = untrusted_json.text(answer.get("oneTimePassword"), "oneTimePassword", 256)
    except MalformedError:
        pass
    else:
        return Identity(user_id, password)
    raise RequestError(PART_FAILED, "the registrar and this API may be of different versions")


async def _call(
    socket: Path,
    method: str,
    path: str,
    content: dict[str, str] | bytearray | None,
    *,
    limit: float,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> tuple[int, bytes]:
    """Return status and body of one call; what failed is told without the library's words."""
    data = json.dumps(content).encode() if isinstance(content, dict) else content
    kind = {"Content-Type": "application/json", **headers} if data else headers
    try:
        async with (
            asyncio.timeout(limit),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.request(method, f"http://localhost{path}", data=data, headers=kind) as response,
        ):
            return response.status, await response.content.read(_MOST_ANSWER)
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    words = f"nothing answers at {socket}: is that service running? Nothing was lost; ask again"
    raise RequestError(UNAVAILABLE, words, retry_after=5)
