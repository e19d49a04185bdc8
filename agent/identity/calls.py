"""The calls of a VPS about its own account: bounded, strict, nothing logged, and errors of ours only.

No proxy, CA bundle or .netrc comes from the environment, and no redirect is followed: neither may decide to
whom a password is sent. A proxy is one of the configuration. Errors are raised outside of ``except`` blocks:
those of requests hold requests.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

import requests
import urllib3

from agent.core.errors import Step
from agent.fetch import classify
from agent.fetch.connections import RacedAdapter, UnusableBodyError, whole_body
from agent.fetch.tunnel import STRAIGHT, Way
from agent.identity.errors import IdentityError, refused
from common import untrusted_json
from common.http_status import FORBIDDEN, FORBIDDEN_AGAIN, FORBIDDEN_PAUSE_S
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

NO_CONTENT: Final = 204
CONNECT_S: Final = 10.0
SILENCE_S: Final = 30.0
"""Without a byte from the service."""
CA_KEY: Final = "the file of authorities (caFile of the claim, keystone.ca_file)"
_LIBRARY_ERRORS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

Read = TypeVar("Read")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a promised status."""

    step: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def read(self, parse: Callable[[object], Read]) -> Read:
        """Return what ``parse`` makes of the body's JSON.

        Raises:
            IdentityError: it is not JSON, or ``parse`` raised MalformedError.
        """
        try:
            return parse(untrusted_json.parse(self.body, "the answer"))
        except MalformedError as error:  # a gateway's page, mostly: it goes by itself
            reason = f"the answer is not as documented: {error}"
        raise IdentityError(self.step, reason, status=self.status, retriable=True)


class Line:
    """The way to the cloud. ``ca_file`` None means the system's authorities."""

    def __init__(self, ca_file: str | None = None, way: Way = STRAIGHT) -> None:
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Accept-Encoding"] = "identity"
        self._verify: str | bool = ca_file or True
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, RacedAdapter(way, max_retries=0))

    def call(
        self,
        method: str,
        url: str,
        step: str,
        statuses: Collection[int],
        *,
        json: object = None,
        token: str = "",
        subject: str = "",
        service: str = "",
    ) -> Answer:
        """Make one call and return its answer. ``step`` says what it is for, ``statuses`` are those promised.

        A 403 that is none of them is asked again twice: Keystone answers it by mistake, too (ADR 51).
        ``subject`` is the token that the call is about, ``service`` one of a service that calls for somebody.

        Raises:
            IdentityError: another status, an answer that can't be used, or none.
        """
        tokens = {"X-Auth-Token": token, "X-Subject-Token": subject, "X-Service-Token": service}
        headers = {"Accept": "application/json"} | {name: text for name, text in tokens.items() if text}
        answer = self._once(method, url, step, json, headers)
        for _ in range(FORBIDDEN_AGAIN):
            if answer.status != FORBIDDEN or FORBIDDEN in statuses:
                break
            time.sleep(FORBIDDEN_PAUSE_S)
            answer = self._once(method, url, step, json, headers)
        if answer.status not in statuses:
            raise refused(step, answer.status)
        return answer

    def _once(self, method: str, url: str, step: str, json: object, headers: Mapping[str, str]) -> Answer:
        options: dict[str, Any] = {"timeout": (CONNECT_S, SILENCE_S), "verify": self._verify}
        try:
            with self._session.request(
                method, url, json=json, headers=headers, stream=True, allow_redirects=False, **options
            ) as response:
                # an answer without content has no length (RFC 9110, 8.6)
                body = b"" if response.status_code == NO_CONTENT else whole_body(response)
                return Answer(step, response.status_code, response.headers, body)
        except _LIBRARY_ERRORS as error:
            reason = classify.network(error, step, Step.KEYSTONE, CA_KEY).advice
        except UnusableBodyError as error:
            reason = str(error)
        raise IdentityError(step, reason, retriable=True)
