"""The only way out: one requests session whose every answer is bounded, whole and judged.

Owns the deadline of the cycle, the count of calls by service and outcome, and what was tried last.
Invariants: no body is longer than a bound; only an answer that is whole (agent/fetch/framing.py) and is what
the API promises (agent/fetch/verdict.py) is a success; no redirect is followed; nothing comes from the
environment (proxies, CA bundles, .netrc): a variable left by somebody else must not decide to whom a
credential is sent; a proxy is one of the agent's file (agent/fetch/tunnel.py).
Failures below HTTP and refusals leave as :class:`CloudError`, raised outside the ``except`` block.
"""

from __future__ import annotations

import http.client
import io
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import requests
import urllib3

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.wire_fields import no_calls
from agent.fetch import classify
from agent.fetch.connections import RacedAdapter, UnusableBodyError, whole_body
from agent.fetch.tunnel import STRAIGHT, Way
from agent.fetch.verdict import Answer, promise, skew_of
from common import addresses, untrusted_json

if TYPE_CHECKING:
    from agent.config.model import FetchSettings
    from agent.core.wire_fields import Calls

_SERVICE: Final = {True: "keystone", False: "barbican"}  # by whether a request goes to Keystone
_LIBRARY_ERRORS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)


class Transport:
    """What all connections of one cycle share. ``deadline`` is on the monotonic clock (s)."""

    def __init__(self, auth_url: str, settings: FetchSettings, deadline: float, way: Way = STRAIGHT) -> None:
        """``auth_url`` is Keystone's address; whatever is not below it is Barbican's."""
        self.way: Final = way
        self.tried = ""
        """The request that was begun last, for people."""
        self.skew: float | None = None
        """How far (s) the services' clock is ahead of ours, by the last answer that told."""
        self._answers: Final = threading.local()
        self._begun: Final[list[str]] = []  # the service of each request; lists, since threads append to them
        self._answered: Final[list[tuple[str, str]]] = []  # service and outcome of each whole answer
        self._keystone: Final = addresses.parse(auth_url)
        self._settings: Final = settings
        self._deadline = deadline

    def hurry(self, seconds: float) -> None:
        """Leave no more than this for what is still to be asked."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def session(self) -> requests.Session:
        """Return a session that has no other way out than this."""
        session = requests.Session()
        session.trust_env = False
        session.headers["Accept-Encoding"] = "identity"
        for scheme in ("https://", "http://"):
            session.mount(scheme, _Adapter(self, self._settings.threads))
        return session

    @property
    def answer(self) -> Answer | None:
        """The last answer that the calling thread got."""
        return getattr(self._answers, "last", None)

    def end(self, answer: Answer) -> None:
        """Note an answer."""
        self._answers.last = answer
        self._answered.append((_SERVICE[answer.keystone], answer.outcome()))
        self.skew = self.skew if answer.skew is None else answer.skew

    def begin(self, request: requests.PreparedRequest) -> tuple[bool, str]:
        """Note a request that is about to be sent; return whether it goes to Keystone, and what it is."""
        url = request.url or ""
        keystone = self._is_keystone(url)
        tried = untrusted_json.printable(f"{request.method} {url}", 300)
        if time.monotonic() >= self._deadline:
            raise CloudError(late(self.tried or tried))
        self._begun.append(_SERVICE[keystone])
        self.tried = tried
        return keystone, tried

    def _is_keystone(self, url: str) -> bool:
        address = addresses.parse(url.partition("?")[0])
        return self._keystone is not None and address is not None and self._keystone.holds(address)

    def calls(self) -> Calls:
        """Return the requests so far; one that has no whole answer counts as failed."""
        counted, answered = no_calls(), list(self._answered)
        for service in list(self._begun):
            counted[service]["failed"] += 1
        for service, outcome in answered:
            counted[service]["failed"] -= 1
            counted[service][outcome] += 1
        return counted

    def timeouts(self) -> tuple[float, float]:
        """Return how long connecting and a silence of the service may last (s)."""
        left = max(0.05, self._deadline - time.monotonic())
        return min(self._settings.connect_timeout, left), left


def late(tried: str) -> Failure:
    """Return the failure of a cycle that has used up its time."""
    advice = "it took longer than the whole cycle may (fetch.timeout): check the service and the way to it"
    return Failure(Step.CONNECTION, Fault.TRANSIENT, tried, advice)


class _Adapter(RacedAdapter):
    """Sends one request and takes its whole answer."""

    def __init__(self, transport: Transport, connections: int) -> None:
        self._transport: Final = transport
        most = max(2, connections)
        super().__init__(transport.way, pool_connections=2, pool_maxsize=most, max_retries=0)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:  # type: ignore[override]  # requests calls it with keywords only
        """Send a request with the cycle's own timeouts and way, and no client certificate."""
        keystone, tried = self._transport.begin(request)
        step = Step.KEYSTONE if keystone else Step.BARBICAN
        failure: Failure | None = None
        body = b""
        try:
            response = super().send(
                request, stream=True, timeout=self._transport.timeouts(), verify=options["verify"]
            )
            body = whole_body(response)
        except _LIBRARY_ERRORS as error:
            failure = classify.network(error, tried, step)
        except UnusableBodyError as error:
            if response.ok:  # of an error the status suffices: its body only tells whose word it is
                failure = Failure(step, Fault.TRANSIENT, tried, str(error), response.status_code)
        if failure is None:
            failure = self._judge(request, response, body, (keystone, tried))
        if failure is not None:
            raise CloudError(failure)
        response.raw = io.BytesIO(body)  # requests reads any file object
        return response

    def _judge(
        self,
        request: requests.PreparedRequest,
        response: requests.Response,
        body: bytes,
        asked: tuple[bool, str],
    ) -> Failure | None:
        now = time.time()
        answer = Answer(
            *asked,
            promise(request.method or "", request.headers.get("Accept", ""), keystone=asked[0]),
            response.status_code,
            response.headers,
            body,
            skew_of(response.headers.get("Date"), now),
            now,
        )
        self._transport.end(answer)
        return answer.judge()
