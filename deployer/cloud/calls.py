"""One call to a service of the cloud: nothing of it is logged, and its answer is bounded and strict.

Only the statuses that are promised are taken. A redirect is none of them: keystoneauth1 would follow it
and send the token along. Errors are raised outside of ``except`` blocks: exceptions of requests and
keystoneauth1 hold whole requests, and so payloads, which a traceback would keep alive.
"""

from __future__ import annotations

import errno
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import requests
from keystoneauth1 import exceptions as keystone_errors

from common import untrusted_json
from common.http_status import FORBIDDEN, FORBIDDEN_AGAIN, FORBIDDEN_PAUSE_S
from common.untrusted_json import MalformedError
from deployer.cloud.errors import CloudError, ForeignError, refused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from keystoneauth1.session import Session

TIMEOUT_S: Final = 30.0
"""Without a byte from the service."""
MAX_ANSWER: Final = 4 * 1024 * 1024
_CHUNK: Final = 16384
_FOREIGN: Final = (keystone_errors.ClientException, requests.RequestException, OSError)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with a promised status."""

    step: str
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def read(self, parse: Callable[[object], Any]) -> Any:
        """Return what ``parse`` makes of the body's JSON.

        Raises:
            CloudError: it is not JSON, or ``parse`` raised MalformedError or ForeignError.
        """
        try:
            return parse(untrusted_json.parse(self.body, "the answer"))
        except ForeignError as error:
            reason, retriable = str(error), False
        except MalformedError as error:  # a gateway's page, mostly: it goes by itself
            reason, retriable = f"the answer is not as documented: {error}", True
        raise CloudError(self.step, reason, status=self.status, retriable=retriable)


def call(
    session: Session,
    method: str,
    url: str,
    step: str,
    statuses: Collection[int],
    *,
    most: int = MAX_ANSWER,
    **request: Any,
) -> Answer:
    """Make one call and return its answer.

    ``step`` says what it is for, ``statuses`` are those that are promised, ``request`` is for requests:
    ``json``, ``data``, ``params``, ``headers``, ``authenticated``. A 403 that is none of those statuses is
    asked again twice: Keystone answers it by mistake, too (ADR 51).

    Raises:
        CloudError: another status, an answer longer than ``most`` bytes, or none.
    """
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"} | request.pop("headers", {})
    request = {"timeout": TIMEOUT_S, "headers": headers} | request
    answer, body = _once(session, method, url, step, most=most, **request)
    for _ in range(FORBIDDEN_AGAIN):
        if answer.status != FORBIDDEN or FORBIDDEN in statuses or not _repeatable(request.get("data")):
            break
        time.sleep(FORBIDDEN_PAUSE_S)
        answer, body = _once(session, method, url, step, most=most, **request)
    if answer.status not in statuses:
        raise refused(step, answer.status)
    if body is None:
        reason = f"the answer is longer than {most} bytes, or compressed"
        raise CloudError(step, reason, status=answer.status, retriable=True)
    return answer


def _repeatable(data: object) -> bool:
    """Return whether a request's content is still there after it was sent once: a stream is not."""
    return data is None or isinstance(data, str | bytes)


def _once(
    session: Session, method: str, url: str, step: str, *, most: int, **request: Any
) -> tuple[Answer, bytes | None]:
    """Make one call; return its answer, and its body or None where that can't be used."""
    try:
        response = session.request(
            url, method, log=False, raise_exc=False, redirect=False, stream=True, **request
        )
        with response:
            body = _read(response, most)
        return Answer(step, response.status_code, response.headers, body or b""), body
    except _FOREIGN as error:
        problem = _translated(step, error)
    raise problem


def access(session: Session, step: str) -> Any:
    """Log in, if need be, and return keystoneauth1's view of the token.

    Raises:
        CloudError: the login failed.
    """
    try:
        return session.auth.get_access(session)  # type: ignore[union-attr]  # every session of ours has one
    except _FOREIGN as error:
        problem = _translated(step, error)
    raise problem


def endpoint(session: Session, step: str, **filters: Any) -> str:
    """Return where Keystone's catalog says that a service is.

    ``filters`` as keystoneauth1's get_endpoint has them.

    Raises:
        CloudError: the login failed, or the catalog has no such service.
    """
    found = None
    try:
        found = session.get_endpoint(**filters)
    except _FOREIGN as error:
        problem = _translated(step, error)
    else:
        problem = CloudError(
            step, "Keystone's catalog has no such service for this account and region", retriable=False
        )
    if not found:
        raise problem
    return str(found)


def _translated(step: str, error: Exception) -> CloudError:
    if isinstance(error, keystone_errors.HttpError):  # of the login: calls of ours raise none
        return _login_refused(step, error.http_status)
    return CloudError(step, _network(error), retriable=True)


def _read(response: requests.Response, most: int) -> bytes | None:
    """Return the body, or None where it is too long, or in a coding that was not asked for."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _login_refused(step: str, status: int) -> CloudError:
    error = refused(step, status)
    reason = f"Keystone refused the login with {error.reason.partition(':')[0]}"
    advice = "" if error.retriable else ": check that the credential is there, valid and not expired"
    return CloudError(step, reason + advice, status=None, retriable=error.retriable)


def _network(error: BaseException) -> str:
    """Return why no answer came; only types and numbers are taken from an exception."""
    reason = "the connection broke off"
    for cause in _causes(error):
        if isinstance(cause, keystone_errors.CatalogException):
            return "Keystone's catalog has no such service for this account"
        if isinstance(cause, (keystone_errors.AuthPluginException, keystone_errors.DiscoveryFailure)):
            reason = "no login is possible at this address: check that it is Keystone's"
        if isinstance(cause, socket.gaierror):
            return "the name of the service does not resolve: check the address and DNS"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the service's certificate is refused (X.509 error {cause.verify_code})"
        if isinstance(cause, (ssl.SSLError, requests.exceptions.SSLError)):
            reason = "the TLS handshake failed: check that the address speaks TLS"
        elif isinstance(cause, (TimeoutError, requests.Timeout, keystone_errors.ConnectTimeout)):
            reason = "no answer in time: check the service and the way to it"
        elif isinstance(cause, OSError) and (name := errno.errorcode.get(cause.errno or 0)):
            reason = f"the connection failed ({name}): check the service"
    return reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Walk what an exception wraps: cause, context, urllib3's ``reason``, an exception as argument."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += [getattr(found, "reason", None), found.__cause__, found.__context__, *found.args[:2]]
