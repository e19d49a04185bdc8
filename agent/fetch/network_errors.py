"""Why a request had no answer, from the exceptions of any HTTP library; the standard library suffices here.

Only types and numbers are taken from them: their texts hold addresses, and some hold whole requests.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.core.errors import Failure, Fault, Step
from agent.fetch.framing import FramingError
from agent.fetch.tunnel import ProxyError

if TYPE_CHECKING:
    from collections.abc import Iterator

CA_KEY: Final = "keystone.ca_file"
_BROKEN_OFF: Final = (http.client.RemoteDisconnected, http.client.IncompleteRead)
_CERTIFICATE: Final = {
    9: "the service's certificate is not valid yet: check this machine's clock",
    10: "the service's certificate has expired: check this machine's clock, then the certificate",
    18: "the service's certificate is self-signed: configure {ca_key}",
    19: "the service's certificate is signed by an unknown authority: configure {ca_key}",
    20: "the service's certificate is signed by an unknown authority: configure {ca_key}",
    62: "the service's certificate is for another host name: check the address",
    64: "the service's certificate is for another address: check the address",
}
"""By X509_V_ERR_* (OpenSSL, x509_vfy.h)."""


class Foreign(NamedTuple):
    """Classes of another library that mean the same as Python's own."""

    tls: tuple[type[BaseException], ...] = ()
    timeouts: tuple[type[BaseException], ...] = ()
    garbled: tuple[type[BaseException], ...] = ()


_NONE: Final = Foreign()


def failure(
    error: BaseException,
    tried: str,
    rejected: Foreign = _NONE,
    ca_key: str = CA_KEY,
    service: Step = Step.CONNECTION,
) -> Failure:
    """Return why a request had no answer: name resolution, proxy, connection or TLS.

    ``ca_key`` is the configuration's key for the authorities of this server. An answer that was garbled is a
    failure of the step ``service``.
    """
    step, advice = Step.CONNECTION, "the connection broke off: check the service and the way to it"
    for cause in causes(error):
        if isinstance(cause, ProxyError):
            return Failure(Step.PROXY, Fault.TRANSIENT, tried, cause.advice, cause.status)
        if isinstance(cause, socket.gaierror):
            step, advice = Step.DNS, "the name does not resolve: check the address and this machine's DNS"
            break
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = _CERTIFICATE.get(cause.verify_code)
            refused = f"the certificate is refused (X.509 error {cause.verify_code})"
            step, advice = Step.TLS, (text or refused).format(ca_key=ca_key)
            break
        if type(cause).__name__ == "CertificateError":  # urllib3 before 2 compares the names itself
            step, advice = Step.TLS, _CERTIFICATE[62]
            break
        if isinstance(cause, (ssl.SSLError, *rejected.tls)):
            step, advice = Step.TLS, "the TLS handshake failed: check that the address speaks TLS"
            continue  # urllib3's own wraps the one that tells more
        if isinstance(cause, (TimeoutError, *rejected.timeouts)):
            advice = "no answer in time: check the service, the way to it and firewalls"
        elif isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
            advice = (
                f"the connection failed ({errno.errorcode[cause.errno]}): check the service and the way to it"
            )
        elif isinstance(cause, (http.client.HTTPException, *rejected.garbled)) and not isinstance(
            cause, _BROKEN_OFF
        ):
            step, what = service, str(cause) if isinstance(cause, FramingError) else "the answer is not HTTP"
            advice = f"{what}: check the address and what is in between"
    return Failure(step, Fault.TRANSIENT, tried, advice)


def causes(error: BaseException) -> Iterator[BaseException]:
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
