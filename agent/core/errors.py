"""The error tree, and what a failure may say.

::

    AgentError               (common/errors.py)
    ├── ConfigurationError   (there too) the operator's file is wrong
    ├── CloudError           Keystone, Barbican or the way to them failed; carries a Failure
    ├── WireError            the other process sent something that is not a message of ours
    ├── MemoryLockError      no memory file could be made
    └── RequestError         a local caller gets an error answer; carries a Problem (RFC 9457)

No class here can hold a payload, token or password: messages are built from names, step, status and
fixed text. Errors of other libraries hold whole bodies and requests, so they are translated where they
appear and ours is raised outside the ``except`` block, which leaves ``__context__`` empty.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from common.errors import VpsSecretsError


class Step(enum.StrEnum):
    """The part of a cycle that failed, in the order in which a cycle passes them."""

    CONFIGURATION = "configuration"
    CREDENTIAL = "credential"
    DNS = "DNS"
    PROXY = "proxy"
    CONNECTION = "connection"
    TLS = "TLS"
    KEYSTONE = "Keystone"
    CATALOG = "catalog"
    BARBICAN = "Barbican"
    PERMISSION = "permission"
    FETCH = "fetch process"
    MEMORY = "memory"
    BEACON = "beacon"  # not a part of a cycle: nothing that is served depends on it


class Fault(enum.StrEnum):
    """What a failure means for the secrets that are held (docs/operating.md, "Troubleshooting")."""

    TRANSIENT = "transient"  # nothing is known about the secrets: keep everything, back off
    DENIED = "denied"  # access was taken away: keep for the revocation grace, then drop


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a cycle, or one payload, could not be read: a value, since it crosses a process boundary.

    ``status`` is the HTTP status where there was an answer. ``tried`` and ``advice`` are fixed texts
    written by us, with names and addresses at most. ``retry_after`` is in seconds, as the service asked.
    """

    step: Step
    fault: Fault
    tried: str
    advice: str
    status: int | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        """One line for the journal, without the next attempt, which only the scheduler knows."""
        status = f" (HTTP {self.status})" if self.status is not None else ""
        return f"{self.step} failed{status}: {self.tried}; {self.advice}"


class CloudError(VpsSecretsError):
    """A cycle could not be completed; ``failure`` tells the step and what it means."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class WireError(VpsSecretsError):
    """A message between serve and fetch broke a rule; it is refused whole.

    The text names the rule, never a part of the message.
    """


class MemoryLockError(VpsSecretsError):
    """The kernel gave no memory file for the payloads."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of error answer on a socket: an RFC 9457 problem type with its fixed text.

    ``type`` is stable and part of the socket API. ``outcome`` is the word in the audit record.
    """

    status: int
    type: str
    title: str
    outcome: str


BAD_REQUEST = Problem(400, "bad-request", "The request is not well-formed", "bad-request")
BAD_NAME = Problem(400, "bad-name", "This is not a secret's name", "bad-request")
BAD_PARAMETER = Problem(400, "bad-parameter", "A query parameter is unknown or out of range", "bad-request")
NOT_GRANTED = Problem(403, "not-granted", "No grant lets this caller read this name", "denied")
NO_PEER = Problem(403, "no-peer-credentials", "The kernel says nothing about the caller", "denied")
NOT_ADMIN = Problem(403, "not-admin", "This socket is for root and the administrators' group", "denied")
NO_SUCH_SECRET = Problem(404, "no-such-secret", "This name is granted but does not exist", "absent")
NO_PREVIOUS = Problem(404, "no-previous-version", "There is no previous version in its grace time", "absent")
NO_SUCH_PATH = Problem(404, "no-such-path", "This socket has no such path", "bad-request")
METHOD_NOT_ALLOWED = Problem(405, "method-not-allowed", "This path has other methods", "bad-request")
URI_TOO_LONG = Problem(414, "uri-too-long", "The request line is too long", "bad-request")
BODY_NOT_EXPECTED = Problem(413, "body-not-expected", "Requests to this socket carry no body", "bad-request")
TOO_MANY_REQUESTS = Problem(429, "too-many-requests", "This comes too soon", "rate-limited")
HEADERS_TOO_LARGE = Problem(431, "headers-too-large", "The request headers are too large", "bad-request")
NOT_READY = Problem(503, "not-ready", "The agent is not ready", "not-ready")
UNAVAILABLE = Problem(
    503, "secret-unavailable", "This secret is listed but its payload can't be read", "not-ready"
)
TOO_MANY_CONNECTIONS = Problem(
    503, "too-many-connections", "The socket's connection limit is reached", "not-ready"
)
NOT_CONFIGURED = Problem(503, "not-configured", "The agent has no valid configuration yet", "not-ready")
AUDIT_UNAVAILABLE = Problem(
    503, "audit-unavailable", "No audit record can be written, so nothing is served", "failed"
)
ACCOUNTS_UNAVAILABLE = Problem(
    503, "accounts-unavailable", "The system's user database does not answer", "failed"
)
REFRESH_FAILED = Problem(502, "refresh-failed", "The cycle failed; what was held is still served", "failed")
INTERNAL = Problem(500, "internal", "The agent failed to answer; its journal says more", "failed")


class RequestError(VpsSecretsError):
    """A local caller gets an error answer. ``detail`` and ``retry_after`` (s) add to the fixed text.

    ``detail`` and ``members`` (RFC 9457, 3.2) are shown to the caller: only text of ours and names that the
    caller itself sent. ``names`` go into the audit record. ``allow`` are the methods that a path has.
    """

    def __init__(
        self,
        problem: Problem,
        detail: str = "",
        *,
        retry_after: float | None = None,
        names: tuple[str, ...] = (),
        members: dict[str, object] | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(problem.title)
        self.problem = problem
        self.detail = detail
        self.retry_after = retry_after
        self.names = names
        self.members = members or {}
        self.allow = allow
