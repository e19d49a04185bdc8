"""The beacon: conditional requests on one connection until what is seen differs, and nothing more.

Standard library only, since this process lives for an hour. Invariants: nothing that the server says but
one validator leaves this module; no redirect is followed; little more than :data:`MAX_BODY` bytes of a body
are read, and they are thrown away; a look that outlasts ``LOOK_S`` ends the watch. The URL's query, which may
be a signature, is in no text.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agent import __version__
from agent.config.beacon import shown
from agent.core import schedule
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.wire_watch import DIGEST, ETAG, LOOK_S, WatchResult, is_seen
from agent.fetch import framing, network_errors, racing
from agent.fetch.tunnel import STRAIGHT, Way
from agent.fetch.verdict import retry_after_of
from common import untrusted_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from agent.config.model import Config
    from agent.core.wire_watch import Watch

    class TokenSource(Protocol):
        """Gives the runtime account's token for the beacon's URL (agent/fetch/token.py)."""

        logins: int

        def get(self) -> str:
            """Return a token that is not known to be refused."""

        def refused(self) -> None:
            """Note that the last token was refused."""


MAX_BODY: Final = 4096
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_OK, _NOT_MODIFIED, _UNAUTHORIZED, _NOT_FOUND = 200, 304, 401, 404
_UNIFORM: Final = random.SystemRandom().uniform


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, its body whole and short.

    ``body`` None: there was more than a beacon has. ``problem``: why its end can't be known, or None.
    """

    status: int
    content_type: str
    problem: str | None
    etag: str
    retry_after: str | None
    body: bytes | None = field(repr=False)


class _Plain(http.client.HTTPConnection):
    """A connection to whichever address of the host answers first."""

    response_class = framing.StrictResponse

    def connect(self) -> None:
        """Connect."""
        self.sock = racing.connect(self.host, self.port, float(self.timeout or 0))


class _Tls(http.client.HTTPSConnection):
    """The same with TLS."""

    response_class = framing.StrictResponse

    def __init__(
        self, host: str, port: int | None, timeout: float, context: ssl.SSLContext, way: Way
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls: Final = context
        self._way: Final = way

    def connect(self) -> None:
        """Connect, and prove who is there."""
        plain = self._way.connect(self.host, self.port, float(self.timeout or 0))
        self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)


class Beacon:
    """The object and the connection to it. ``tokens`` None: it is read without a login."""

    def __init__(self, config: Config, tokens: TokenSource | None = None, way: Way = STRAIGHT) -> None:
        self._way: Final = way
        assert config.beacon is not None  # noqa: S101  # the caller has looked
        self._settings: Final = config.beacon
        self._tokens: Final = tokens
        self._timeout: Final = config.fetch.connect_timeout
        self._connection: http.client.HTTPConnection | None = None
        self._tried: Final = untrusted_json.printable(f"look at the beacon {shown(config.beacon.url)}", 300)
        self.looks = 0

    def look(self, seen: str | None) -> str | Failure:
        """Return what is there now, which is ``seen`` where nothing has changed, or why that isn't known."""
        self.looks += 1
        try:
            return self._look(seen)
        except CloudError as error:
            return error.failure
        except (OSError, http.client.HTTPException) as error:
            return network_errors.failure(error, self._tried, ca_key="beacon.ca_file")
        except Exception as error:  # noqa: BLE001  # the edge: http.client over untrusted bytes; only the type is told
            advice = f"{type(error).__name__} in the fetch program: please report it with this line"
            return self._failure(advice)

    def late(self) -> Failure:
        """Return the failure of a look that does not end."""
        return self._failure(f"no whole answer within {LOOK_S:g} s: check the server and the way to it")

    def _look(self, seen: str | None) -> str | Failure:
        answer = self._ask(seen)
        if answer.status == _UNAUTHORIZED and self._tokens is not None:
            self._tokens.refused()
            answer = self._ask(seen)
        if answer.status == _NOT_MODIFIED and seen is not None and seen.startswith(ETAG):
            return seen
        if answer.status != _OK:
            retry_after = retry_after_of(answer.retry_after, time.time())
            return self._failure(self._advice(answer.status), answer.status, retry_after)
        if answer.problem:
            return self._failure(f"{answer.problem}: check what is in between", answer.status)
        if answer.content_type.partition(";")[0].strip().lower() in _PAGES:
            advice = "a page came, not a beacon: check the address and what is in between, as a proxy's login"
            return self._failure(advice, answer.status)
        if answer.body is None:
            advice = f"the answer is longer than {MAX_BODY} bytes, so it is no beacon: check the address"
            return self._failure(advice, answer.status)
        # Last-Modified is not used: it can't tell two touches of one second apart
        etag = answer.etag.removeprefix("W/")
        validator = ETAG + (etag if '"' in etag else f'"{etag}"')  # Swift sends it without the quotes
        known = etag and is_seen(validator)
        return validator if known else DIGEST + hashlib.sha256(answer.body).hexdigest()

    def _advice(self, status: int) -> str:
        if status in {301, 302, 303, 307, 308}:
            return "redirects are not followed: configure the address that is meant"
        if status in {_UNAUTHORIZED, 403}:
            if self._tokens is not None:
                return "a fresh token is refused: check the container's read ACL, and docs/provisioning.md"
            return "it may not be read: check its permissions, and when a signature in beacon.url expires"
        if status == _NOT_FOUND:
            return "there is no such object: touch it once, and check the address"
        return "unexpected: the server's own log says why"

    def _failure(self, advice: str, status: int | None = None, retry_after: float | None = None) -> Failure:
        return Failure(Step.BEACON, Fault.TRANSIENT, self._tried, advice, status, retry_after)

    def _ask(self, seen: str | None) -> _Answer:
        """Make one request; a kept connection that the server has given up is replaced once."""
        headers = {
            "User-Agent": f"vps-secrets-agent/{__version__}",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
        }
        if seen is not None and seen.startswith(ETAG):
            headers["If-None-Match"] = seen.removeprefix(ETAG)
        if self._tokens is not None:
            headers["X-Auth-Token"] = self._tokens.get()
        if self._connection is not None:
            try:
                return self._exchange(self._connection, headers)
            except (OSError, http.client.HTTPException):
                self.close()
        self._connection = self._connect()
        try:
            return self._exchange(self._connection, headers)
        except BaseException:
            self.close()
            raise

    def _exchange(self, connection: http.client.HTTPConnection, headers: dict[str, str]) -> _Answer:
        parts = urlsplit(self._settings.url)
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("GET", target, headers=headers)
        with connection.getresponse() as response:
            return self._take(response)

    def _take(self, response: http.client.HTTPResponse) -> _Answer:
        """Return an answer with as much of its body as a beacon may have; any rest ends the connection."""
        untrusted = response.read(MAX_BODY + 1)
        whole = response.isclosed() or not response.read(1)
        if not whole or response.will_close:
            self.close()
        if response.status == _OK and len(untrusted) <= MAX_BODY and response.length:
            raise http.client.IncompleteRead(b"")
        return _Answer(
            response.status,
            response.headers.get("Content-Type", ""),
            framing.problem(_joined(response.headers), response.version),
            response.headers.get("ETag", ""),
            response.headers.get("Retry-After"),
            untrusted if whole and len(untrusted) <= MAX_BODY else None,
        )

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._settings.url)
        assert parts.hostname is not None  # noqa: S101  # the configuration's check
        if parts.scheme == "http":
            return _Plain(parts.hostname, parts.port, timeout=self._timeout)
        context = ssl.create_default_context(cafile=self._settings.ca_file)
        return _Tls(parts.hostname, parts.port, self._timeout, context, self._way)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _joined(headers: http.client.HTTPMessage) -> dict[str, str]:
    """Return the headers that framing looks at, each with all its values (RFC 9110, 5.3)."""
    return {name: ", ".join(found) for name in framing.HEADERS if (found := headers.get_all(name))}


def watch(
    beacon: Beacon, asked: Watch, has_gone: Callable[[float], bool], tokens: TokenSource | None = None
) -> WatchResult | None:
    """Look until there is something to tell; None where nobody is left to tell it.

    ``has_gone`` waits so many seconds and returns whether serve has closed its end meanwhile.
    """
    end = time.monotonic() + asked.lifetime
    while True:
        found = _bounded(beacon, asked.seen)
        pause = schedule.look(asked.interval, _UNIFORM)
        if found != asked.seen or time.monotonic() + pause > end:
            seen, failure = (None, found) if isinstance(found, Failure) else (found, None)
            return WatchResult(asked.nonce, seen, failure, beacon.looks, tokens.logins if tokens else 0)
        if has_gone(pause):
            return None


def _bounded(beacon: Beacon, seen: str | None) -> str | Failure:
    """Look in a thread of its own, so that nothing (DNS, a server that drips) outlasts its time."""
    found: list[str | Failure] = []
    looking = threading.Thread(target=lambda: found.append(beacon.look(seen)), name="look", daemon=True)
    looking.start()
    looking.join(LOOK_S)
    return found[0] if found else beacon.late()
