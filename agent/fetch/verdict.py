"""What an HTTP answer of Keystone or Barbican means for the secrets that are held: a pure judgement.

Access was taken away only where the service itself says so, in its own form: a 401, 403 or 404 page of some
front end on the way is a fault of the way, on which nothing is dropped. Likewise only what the API promises
for a call is its success: a page of a front end is none, whatever its status.
"""

from __future__ import annotations

import email.utils
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.core.errors import Failure, Fault, Step
from agent.core.wire_fields import MAX_RETRY_AFTER
from common import untrusted_json

if TYPE_CHECKING:
    from collections.abc import Mapping

CLOCK_TOLERANCE_S: Final = 300.0
_TOKEN: Final = re.compile(r"[!-~]+")  # sent back in a header (RFC 9110, 5.5)
_REQUEST_ID: Final = re.compile(r"req-[0-9a-f-]{36}")  # finds the request in the services' own logs

_IN_BETWEEN: Final = "check the address and what is in between, as a proxy with a page of its own"
_AGAIN: Final = "the service's own log says why"
_GONE: Final = (
    "the secret of the credential is wrong (the commonest cause), its id is wrong, it has expired, was "
    "revoked or deleted, or its user is disabled: give this VPS the right one, or a new one "
    "(vps-secrets setup --replace)"
)
_NO_ACCESS: Final = (
    "it does not exist any more or this account has no access: check the reference and that its ACL names "
    "this account's user"
)
_SECOND_401: Final = (
    "Keystone gave a new token and Barbican refuses it too: check the access rules of the application "
    "credential (GET on /v1/containers/*, /v1/secrets/*, /v1/secrets/*/payload) and that both services "
    "belong to one cloud"
)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the API promises for a call that succeeds; anything else below 300 is no success."""

    status: int
    media_type: str
    token: bool = False
    """Whether the answer has a token in its header X-Subject-Token."""

    def broken_by(self, status: int, headers: Mapping[str, str]) -> str | None:
        """Return how an answer differs from what was promised, or None. Parameters as charset are ignored."""
        content_type = headers.get("Content-Type", "")
        if status != self.status:
            return f"it answered {status} where only {self.status} is a success"
        if not self.media_type or content_type.partition(";")[0].strip().lower() != self.media_type:
            return f"what it answered is not {self.media_type or 'of a type that was asked for'}"
        if self.token and not _TOKEN.fullmatch(headers.get("X-Subject-Token", "")):
            return "it answered without a token"
        return None


def promise(method: str, untrusted_accept: str, *, keystone: bool) -> Promise:
    """Return what is promised for a request: what it asked for, and 201 with a token where it is a login.

    Keystone and Barbican answer in the one type that was asked for (Identity API v3, Key Manager API v1); a
    payload that is asked for as octets comes as octets, whatever the type of the secret. Barbican answers 200
    with the container where a consumer was registered or deleted.
    """
    login = keystone and method == "POST"
    return Promise(201 if login else 200, untrusted_accept.strip().lower(), token=login)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, its body whole; empty where that of an error was not.

    ``skew`` is the service's clock less ours (s), where it told it.
    """

    keystone: bool
    tried: str
    promise: Promise
    status: int
    headers: Mapping[str, str]
    body: bytes
    skew: float | None
    now: float

    def judge(self) -> Failure | None:
        """Return what is wrong with it, or None where a library should see it.

        That is also so for Barbican's 401, after which keystoneauth1 logs in again.
        """
        if self.status < 300:  # noqa: PLR2004  # HTTP
            broken = self._broken()
            return self._failure(self._step, Fault.TRANSIENT, f"{broken}: {_IN_BETWEEN}") if broken else None
        own = self._service_says_so()
        if self.keystone:
            return self._keystone(denied=own and self.status in {401, 404})
        if self.status == 401 and own:  # noqa: PLR2004  # HTTP
            return None
        if self.status in {403, 404} and own:
            return self._failure(Step.PERMISSION, Fault.DENIED, _NO_ACCESS)
        return self._failure(Step.BARBICAN, Fault.TRANSIENT, self._advice())

    def outcome(self) -> str:
        """Return what it counts as (see OUTCOMES in agent/core/wire_fields.py)."""
        if self._broken() is None:
            return "ok"
        return "refused" if self.status in {401, 403, 404} else "failed"

    def _broken(self) -> str | None:
        return self.promise.broken_by(self.status, self.headers)

    @property
    def _step(self) -> Step:
        return Step.KEYSTONE if self.keystone else Step.BARBICAN

    @property
    def request_id(self) -> str:
        """Under which the service's own log and audit have this request; nothing where it does not say."""
        untrusted = self.headers.get("X-Openstack-Request-Id", "")
        return untrusted if _REQUEST_ID.fullmatch(untrusted) else ""

    def second_401(self) -> Failure:
        """Return what it means when Barbican refuses a fresh token."""
        return self._failure(Step.PERMISSION, Fault.DENIED, _SECOND_401 + clock_hint(self.skew))

    def _keystone(self, *, denied: bool) -> Failure:
        if denied:
            return self._failure(Step.KEYSTONE, Fault.DENIED, _GONE + clock_hint(self.skew))
        return self._failure(Step.KEYSTONE, Fault.TRANSIENT, self._advice())

    def _failure(self, step: Step, fault: Fault, advice: str) -> Failure:
        retry_after = retry_after_of(self.headers.get("Retry-After"), self.now + (self.skew or 0.0))
        tried = f"{self.tried} ({self.request_id})" if self.request_id else self.tried
        return Failure(step, fault, tried, advice, self.status, retry_after)

    def _advice(self) -> str:
        if self.status < 400:  # noqa: PLR2004  # HTTP
            return "redirects are not followed: configure the address that is meant"
        if self.status == 429:  # noqa: PLR2004  # HTTP
            return "it asks for fewer requests"
        if self.status < 500:  # noqa: PLR2004  # HTTP
            return f"unexpected, and not in the service's own form: check the address and what is in between{clock_hint(self.skew)}"  # noqa: E501  # one text
        return _AGAIN

    def _service_says_so(self) -> bool:
        """Tell a refusal by the service itself from one by a proxy in front of it.

        Keystone: ``{"error": {"code": …, "title": …}}``; Barbican: ``{"code": …, "title": …}``;
        keystonemiddleware: either, or WWW-Authenticate: Keystone. A code alone is not enough: gateways and
        load balancers write ``{"code": 404, "message": …}`` and ``{"error": {"code": 404, …}}`` too.
        """
        if self.status == 401 and self.headers.get("WWW-Authenticate", "").lower().startswith("keystone"):  # noqa: PLR2004
            return True
        try:
            untrusted = untrusted_json.mapping(untrusted_json.parse(self.body, "the body"), "the body")
        except untrusted_json.MalformedError:
            return False
        inner = untrusted.get("error", untrusted)
        return (
            isinstance(inner, dict)
            and inner.get("code") == self.status
            and isinstance(inner.get("title"), str)
        )


def retry_after_of(untrusted: str | None, now: float) -> float | None:
    """Return the seconds that Retry-After asks for (RFC 9110, 10.2.3: seconds or a date), or None."""
    if untrusted is None:
        return None
    if untrusted.isascii() and untrusted.isdigit():
        return min(float(untrusted[:12]), MAX_RETRY_AFTER)
    at = _date(untrusted)
    return None if at is None else min(max(0.0, at - now), MAX_RETRY_AFTER)


def skew_of(untrusted_date: str | None, now: float) -> float | None:
    """Return how far (s) the service's clock is ahead of ours by its Date header, or None."""
    at = None if untrusted_date is None else _date(untrusted_date)
    return None if at is None else at - now


def clock_hint(skew: float | None) -> str:
    """Return a remark for people where the clocks differ so much that tokens and certificates suffer."""
    if skew is None or abs(skew) < CLOCK_TOLERANCE_S:
        return ""
    direction = "behind" if skew > 0 else "ahead of"
    return f"; this machine's clock is {abs(skew) / 60:.0f} minutes {direction} the service's: set it right"


def _date(untrusted: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(untrusted).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
