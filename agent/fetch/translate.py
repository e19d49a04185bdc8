"""Foreign exceptions to :class:`Failure`: fixed texts of ours, nothing that an exception holds.

Exceptions of requests, keystoneauth1, barbicanclient and json carry whole requests and bodies. Only types,
numbers and addresses are taken from them.
"""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Final

import urllib3
from keystoneauth1 import exceptions as keystone_errors

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.strict import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.fetch.transport import Transport

_CERTIFICATE: Final = {
    9: "the service's certificate is not valid yet: check this machine's clock",
    10: "the service's certificate has expired: check this machine's clock, then the certificate",
    18: "the service's certificate is self-signed: configure keystone.ca_file",
    19: "the service's certificate is signed by an unknown authority: configure keystone.ca_file",
    20: "the service's certificate is signed by an unknown authority: configure keystone.ca_file",
    62: "the service's certificate is for another host name: check the address",
    64: "the service's certificate is for another address: check the address",
}
"""By X509_V_ERR_* (OpenSSL, x509_vfy.h)."""


def network(error: BaseException, tried: str) -> Failure:
    """Return why a request had no answer: name resolution, connection or TLS."""
    step, advice = Step.CONNECTION, "the connection broke off: check the service and the way to it"
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            step, advice = Step.DNS, "the name does not resolve: check the address and this machine's DNS"
            break
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = _CERTIFICATE.get(cause.verify_code)
            step, advice = Step.TLS, text or f"the certificate is refused (X.509 error {cause.verify_code})"
            break
        if type(cause).__name__ == "CertificateError":  # urllib3 before 2 compares the names itself
            step, advice = Step.TLS, _CERTIFICATE[62]
            break
        if isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError):
            step, advice = Step.TLS, "the TLS handshake failed: check that the address speaks TLS"
            continue  # urllib3's own wraps the one that tells more
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            advice = "no answer in time: check the service, the way to it and firewalls"
        elif isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            advice = f"the connection failed ({errno.errorcode[cause.errno]}): check the service and the way"
    return Failure(step, Fault.TRANSIENT, tried, advice)


def failure(error: BaseException, transport: Transport | None) -> Failure:
    """Return what any exception of a cycle means."""
    if isinstance(error, CloudError):
        return error.failure
    answer = transport.answer if transport else None
    tried = answer.tried if answer else "make a cycle"
    status = getattr(error, "http_status", None) or getattr(error, "status_code", None)
    if answer is not None and answer.status == 401:  # noqa: PLR2004  # HTTP
        # a first 401 leads to a login
        return answer.second_401()
    if isinstance(error, keystone_errors.CatalogException):
        advice = (
            "Keystone's catalog has no such endpoint for this account: check keystone.region, "
            "keystone.interface and keystone.service_type, or give keystone.endpoint_override"
        )
        return Failure(Step.CATALOG, Fault.TRANSIENT, "look up Barbican in Keystone's catalog", advice)
    if isinstance(error, MalformedError):
        return Failure(Step.BARBICAN, Fault.TRANSIENT, tried, f"the answer is not as documented: {error}")
    if answer is not None and answer.keystone:
        advice = "the answer is not as documented: check that keystone.auth_url is Keystone's"
        return Failure(Step.KEYSTONE, Fault.TRANSIENT, tried, advice, answer.status)
    if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004  # HTTP
        return Failure(Step.BARBICAN, Fault.TRANSIENT, tried, "unexpected: check the address", status)
    advice = f"{type(error).__name__} in the fetch program: please report it with this line"
    return Failure(Step.FETCH, Fault.TRANSIENT, tried, advice)


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
