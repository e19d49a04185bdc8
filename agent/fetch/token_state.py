"""The token state: what one cycle leaves to the next, so that a quiet cycle costs no login.

It is JSON: the token with no more of its answer than a cycle needs, for which credential and services it is,
and what is known of the credential's expiry. Of the catalog, which may be of any length, the endpoints of the
services in question are kept. A state of another credential, address, project or service is not taken.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from common import untrusted_json
from common.dates import LAST_TIME
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterable

_KEPT: Final = ("methods", "expires_at", "issued_at")
"""Of a token's members (Identity API v3), what keystoneauth1 needs to go on with it."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """``at``: when the credential expires, None for never or unknown; ``asked``: when. Both Unix time (s).

    ``problem``: why it could not be learned this time, for people; it is not kept.
    """

    at: float | None = None
    asked: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TokenState:
    """``auth`` is a state for keystoneauth1's ``set_auth_state()``, None where there is no token."""

    auth: str | None = field(default=None, repr=False)
    expiry: Expiry = Expiry()


def decode(untrusted: bytes, holder: str) -> TokenState:
    """Return the state if it is ``holder``'s, else an empty one: that costs a login, and is no fault."""
    try:
        kept = untrusted_json.mapping(untrusted_json.parse(untrusted, "the token state"), "the token state")
        auth = kept.get("state")
        if kept.get("credential") != holder or not (auth is None or isinstance(auth, str)):
            return TokenState()
        at, asked = untrusted_json.array(kept.get("expiry"), "expiry", 2)
        expiry = Expiry(
            None if at is None else untrusted_json.number(at, "expiry", LAST_TIME),
            untrusted_json.number(asked, "asked", LAST_TIME),
        )
    except (MalformedError, ValueError):  # ValueError: not two of them
        return TokenState()
    return TokenState(auth, expiry)


def encode(state: TokenState, holder: str) -> bytes:
    """Return the state as bytes; empty where there is no token."""
    if state.auth is None:
        return b""
    expiry = (state.expiry.at, state.expiry.asked)
    return json.dumps({"credential": holder, "state": state.auth, "expiry": expiry}).encode()


def shortened(access: Any, service_types: Iterable[str]) -> str:
    """Return a state of keystoneauth1's with only these services of the catalog that came with the token."""
    token = {key: access._data["token"][key] for key in _KEPT if key in access._data["token"]}  # noqa: SLF001  # as get_auth_state() does
    catalog = [{"type": kind, "endpoints": _endpoints(access, kind)} for kind in service_types]
    return json.dumps({"auth_token": access.auth_token, "body": {"token": token | {"catalog": catalog}}})


def _endpoints(access: Any, service_type: str) -> list[Any]:
    with contextlib.suppress(Exception):  # a catalog that is none: whoever looks something up in it says so
        found = access.service_catalog.get_endpoints(service_type=service_type)
        return list(itertools.chain.from_iterable(found.values()))
    return []
