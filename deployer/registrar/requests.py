"""What a request asks the registrar for, and who may ask. Pure.

POST   /vps/ID                    make its user
POST   /vps/ID/claim?again=true   tell its one-time password, once
POST   /vps/ID/claim?keep=USER    the same, of a user that a person made and a machine uses
POST   /vps/ID/observe            whether it has claimed its user
POST   /vps/ID/disable, /enable   shut it out, let it in again
DELETE /vps/ID                    delete its user
GET    /login                     how long its own password lasts
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Protocol

from common.names import parse_vps_id
from deployer.registrar.errors import RefusalError

CLAIM: Final = "claim"
LOGIN: Final = "login"
_TARGET: Final = re.compile(
    r"/vps/([^/?]{1,64})(?:/([a-z]{1,20}))?(\?again=true|\?keep=([A-Za-z0-9_-]{1,64}))?"
)
_POSTS: Final = frozenset({"claim", "observe", "disable", "enable"})


class Users(Protocol):
    """Whoever has the users: a domain or a pool. Every method raises RefusalError or CloudError."""

    def make(self, vps_id: str) -> dict[str, object]:
        """``userId``."""

    def claim(self, vps_id: str, *, again: bool = False, keep: str = "") -> dict[str, object]:
        """``userId``, ``oneTimePassword``."""

    def observe(self, vps_id: str) -> dict[str, object]:
        """``userId``, ``claimed``."""

    def disable(self, vps_id: str) -> dict[str, object]:
        """``userId``, ``enabled``."""

    def enable(self, vps_id: str) -> dict[str, object]:
        """``userId``, ``enabled``."""

    def login(self) -> dict[str, object]:
        """``ends``, ``since``: of its own password; null where there is none, or nobody knows."""

    def delete(self, vps_id: str) -> dict[str, object]:
        """``remains``: whether a person has to delete it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is well formed."""

    operation: str
    vps_id: str
    again: bool = False
    keep: str = ""
    """The id of the user that is to be kept."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Who may ask: for anything, and for anything but a one-time password. Numbers of Unix users."""

    anything: frozenset[int]
    no_claim: frozenset[int]

    def check(self, uid: int, request: Request) -> None:
        """Refuse a caller who may not.

        Raises:
            RefusalError: HTTP 403.
        """
        if uid in self.anything or (uid in self.no_claim and request.operation != CLAIM):
            return
        raise RefusalError(403, "not-allowed", f"the user {uid} of this machine may not ask for that")


def parse(method: str, untrusted_target: str) -> Request:
    """Return what is asked for.

    Raises:
        RefusalError: HTTP 404 or 405.
    """
    if (method, untrusted_target) == ("GET", f"/{LOGIN}"):
        return Request(LOGIN, "")
    match = _TARGET.fullmatch(untrusted_target)
    vps_id = parse_vps_id(match[1]) if match else None
    if match is None or vps_id is None:
        raise RefusalError(404, "unknown", "there is no such request: POST /vps/ID, for example")
    operation = match[2] or {"POST": "make", "DELETE": "delete"}.get(method, "")
    if match[2] and match[2] not in _POSTS:
        raise RefusalError(404, "unknown", f"a VPS has no {match[2]} here")
    if not operation or (match[2] and method != "POST"):
        raise RefusalError(405, "method", "that can't be done here")
    if match[3] and operation != CLAIM:
        raise RefusalError(404, "unknown", "again and keep are for claim only")
    keep = match[4] or ""
    return Request(operation, vps_id, again=bool(match[3]) and not keep, keep=keep)


def perform(users: Users, request: Request) -> dict[str, object]:
    """Do what is asked for and return the answer."""
    if request.operation == LOGIN:
        return users.login()
    if request.operation == CLAIM:
        return users.claim(request.vps_id, again=request.again, keep=request.keep)
    operations = {
        "make": users.make,
        "observe": users.observe,
        "disable": users.disable,
        "enable": users.enable,
        "delete": users.delete,
    }
    return operations[request.operation](request.vps_id)
