"""Says in the container what serve serves: one consumer of ours, the new one before the former goes.

And, where nobody says it, to which key values are to be sealed: a container that was made anew has lost that.

Whatever becomes of it is no failure of the cycle, which has done its reading before. A refusal costs no
second login. Source: Key Manager API v1, consumers of a container.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agent.core.errors import Fault
from agent.fetch import classify
from common.acknowledgement import consumer_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agent.fetch.transport import Transport

WITHIN_S: Final = 3.0
"""How long a reading that is done waits for an answer."""
NO_ANSWER: Final = "what is served is not acknowledged: Barbican did not answer in time"
MAX_REMOVED: Final = 10
"""How many former ones go in one cycle; there is one, unless many cycles were cut short."""
_NO_RULE: Final = (
    "HTTP 401, the application credential has no access rule for it: it needs POST and DELETE on "
    "/v1/containers/UUID/consumers (docs/provisioning.md)"
)


@dataclass(frozen=True, slots=True)
class Consumers:
    """Those of the container, at ``url``, with the token that has read it."""

    session: Any
    url: str
    token: str
    transport: Transport


def acknowledge(consumers: Consumers, serves: str, listed: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Make ``serves`` the one digest that is listed; return what is listed then, and what went wrong.

    ``listed`` is what the container listed in this cycle; where that is ``serves`` alone, nothing is asked.
    """
    left = list(listed)
    if serves not in left:
        problem = _problem(consumers, "POST", consumer_of(serves))
        if problem:
            return tuple(left), f"what is served is not acknowledged: {problem}"
        left.append(serves)
    for former in [digest for digest in listed if digest != serves][:MAX_REMOVED]:
        problem = _problem(consumers, "DELETE", consumer_of(former))
        if problem:
            return tuple(left), f"a former acknowledgement is left in the container: {problem}"
        left.remove(former)
    return tuple(left), ""


def announce(consumers: Consumers, key: Mapping[str, str]) -> str:
    """Say to which key values are to be sealed; return what went wrong."""
    problem = _problem(consumers, "POST", key)
    return f"the key of this VPS is not announced: {problem}" if problem else ""


def _problem(consumers: Consumers, method: str, consumer: Mapping[str, str]) -> str:
    """Make one call and return why it failed, or nothing; what is gone already need not go."""
    try:
        # with the token at hand, unauthenticated to keystoneauth1: a refusal must not cost a second login
        consumers.session.request(
            consumers.url,
            method,
            json=dict(consumer),
            headers={"X-Auth-Token": consumers.token, "Accept": "application/json"},
            authenticated=False,
            log=False,
        )
    except Exception as error:  # noqa: BLE001  # a library over untrusted JSON: every error is translated
        failure = classify.failure(error, consumers.transport.answer)
    else:
        return ""
    if method == "DELETE" and (failure.fault, failure.status) == (Fault.DENIED, 404):
        return ""
    if (failure.fault, failure.status) == (Fault.DENIED, 401):
        return _NO_RULE
    status = f"HTTP {failure.status}, " if failure.status is not None else ""
    return f"{status}{failure.advice}"
