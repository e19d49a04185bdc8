"""Foreign exceptions to :class:`Failure`: fixed texts of ours, nothing that an exception holds.

Exceptions of requests, keystoneauth1, barbicanclient and json carry whole requests and bodies. Only types,
numbers and addresses are taken from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import urllib3
from keystoneauth1 import exceptions as keystone_errors

from agent.core.errors import CloudError, Failure, Fault, Step
from agent.fetch import network_errors
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.fetch.verdict import Answer

_URLLIB3: Final = network_errors.Foreign(
    (urllib3.exceptions.SSLError,), (urllib3.exceptions.TimeoutError,), (urllib3.exceptions.InvalidHeader,)
)


def network(error: BaseException, tried: str, service: Step, ca_key: str = network_errors.CA_KEY) -> Failure:
    """Return why a request of requests and urllib3 to this service had no answer."""
    return network_errors.failure(error, tried, _URLLIB3, ca_key, service)


def failure(error: BaseException, answer: Answer | None) -> Failure:
    """Return what any exception of a cycle means; ``answer`` is the last one that the same thread got."""
    if isinstance(error, CloudError):
        return error.failure
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
        step = Step.KEYSTONE if answer is not None and answer.keystone else Step.BARBICAN
        return Failure(step, Fault.TRANSIENT, tried, f"the answer is not as documented: {error}")
    if answer is not None and answer.keystone:
        advice = "the answer is not as documented: check that keystone.auth_url is Keystone's"
        return Failure(Step.KEYSTONE, Fault.TRANSIENT, tried, advice, answer.status)
    if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004  # HTTP
        return Failure(Step.BARBICAN, Fault.TRANSIENT, tried, "unexpected: check the address", status)
    advice = f"{type(error).__name__} in the fetch program: please report it with this line"
    return Failure(Step.FETCH, Fault.TRANSIENT, tried, advice)
