"""What the API says when it does not do what was asked: RFC 9457 problems with stable types.

No problem holds a part of a request: a value may be where none belongs. What is wrong in a body is told by
place and rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX: Final = "urn:vps-secrets:problem:"


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error answer. ``type`` is stable and part of the API."""

    status: int
    type: str
    title: str


BAD_REQUEST: Final = Problem(400, "bad-request", "The request is not well-formed")
BAD_BODY: Final = Problem(400, "bad-body", "The body is not what this operation takes")
BAD_PARAMETER: Final = Problem(400, "bad-parameter", "A parameter is unknown or out of range")
NO_CALLER: Final = Problem(403, "no-peer-credentials", "Nothing tells who is calling")
NO_ROLE: Final = Problem(403, "no-role", "This caller has no role")
NOT_ALLOWED: Final = Problem(403, "not-allowed", "This needs a higher role than the caller has")
CROSS_SITE: Final = Problem(403, "cross-site", "A page of another site may change nothing here")
NO_SUCH_PATH: Final = Problem(404, "no-such-path", "There is no such path")
NO_SUCH_VPS: Final = Problem(404, "no-such-vps", "There is no VPS of this id")
NO_SUCH_SECRET: Final = Problem(404, "no-such-secret", "This VPS has no secret of this name")
NO_SUCH_OPERATION: Final = Problem(404, "no-such-operation", "There is no operation of this id")
METHOD_NOT_ALLOWED: Final = Problem(405, "method-not-allowed", "This path has other methods")
TOO_SLOW: Final = Problem(408, "too-slow", "The request took too long to arrive")
CONFLICT: Final = Problem(409, "conflict", "This contradicts what is there")
NO_SUCH_BLUEPRINT: Final = Problem(409, "no-such-blueprint", "No blueprint of this name is applied")
KEY_USED: Final = Problem(409, "idempotency-key-used", "This Idempotency-Key was used for another order")
NOT_CONFIRMED: Final = Problem(409, "not-confirmed", "What can't be undone needs the id of the VPS once more")
ALREADY_CLAIMED: Final = Problem(409, "already-claimed", "The identity of this VPS was handed out before")
NOT_JOINED: Final = Problem(409, "not-joined", "This VPS has no key yet that a value could be sealed to")
NOT_EXTERNAL: Final = Problem(409, "not-external", "This secret is made here; its value can't be given")
NOTHING_TO_ROTATE: Final = Problem(409, "nothing-to-rotate", "There is nothing of these to rotate")
NO_FORMER: Final = Problem(409, "no-former-version", "There is no former version to go back to")
LENGTH_REQUIRED: Final = Problem(411, "length-required", "The request needs a Content-Length")
TOO_LARGE: Final = Problem(413, "too-large", "The body is larger than this operation takes")
URI_TOO_LONG: Final = Problem(414, "uri-too-long", "The request line is too long")
WRONG_TYPE: Final = Problem(415, "wrong-type", "The body has another Content-Type than this operation takes")
WRONG_HOST: Final = Problem(421, "wrong-host", "The Host header names another server")
REFUSED: Final = Problem(422, "refused", "The worker does not take this")
TOO_MANY: Final = Problem(429, "too-many", "Too many at a time")
HEADERS_TOO_LARGE: Final = Problem(431, "headers-too-large", "The request headers are too large")
INTERNAL: Final = Problem(500, "internal", "The API failed to answer; its journal says more")
PART_FAILED: Final = Problem(502, "part-failed", "A part that this needs answered otherwise than agreed")
UNAVAILABLE: Final = Problem(503, "unavailable", "A part that this needs does not answer")


class RequestError(VpsSecretsError):
    """The caller gets an error answer. ``detail`` says what to do; ``errors`` what is wrong in a body.

    ``allow`` are the methods that a path has; ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        problem: Problem,
        detail: str = "",
        *,
        errors: Sequence[Mapping[str, str]] = (),
        allow: str = "",
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{problem.title}: {detail}" if detail else problem.title)
        self.problem = problem
        self.detail = detail
        self.errors = tuple(errors)
        self.allow = allow
        self.retry_after = retry_after

    def content(self) -> dict[str, object]:
        """Return what the answer's body says."""
        content: dict[str, object] = {
            "type": PREFIX + self.problem.type,
            "title": self.problem.title,
            "status": self.problem.status,
        }
        if self.detail:
            content["detail"] = self.detail
        if self.errors:
            content["errors"] = [dict(error) for error in self.errors]
        return content
