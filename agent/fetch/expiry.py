"""When the application credential expires: Keystone tells its own token, where no access rule forbids it.

Asked after a login, once a day, and remembered with the token state, so that a quiet cycle asks nothing. Not
to know it is no failure: what the cycle is for has been done before.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1 import exceptions as keystone_errors

from agent.core.errors import CloudError
from agent.core.wire import MAX_TOKEN_STATE
from common import untrusted_json
from common.dates import LAST_TIME
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.fetch.login import Login

ASK_EVERY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Expiry:
    """``at``: when the credential expires, None for never or unknown; ``asked``: when. Both Unix time (s)."""

    at: float | None = None
    asked: float = 0.0


def recall(token_state: bytes, login: Login) -> Expiry:
    """Return what a former cycle learned about the same credential."""
    try:
        kept = untrusted_json.mapping(untrusted_json.parse(token_state, "the token state"), "the token state")
        if kept.get("credential") != login.plugin.get_cache_id():
            return Expiry()
        at, asked = untrusted_json.array(kept.get("expiry"), "expiry", 2)
        return Expiry(
            None if at is None else untrusted_json.number(at, "expiry", LAST_TIME),
            untrusted_json.number(asked, "asked", LAST_TIME),
        )
    except (MalformedError, ValueError):
        return Expiry()


def enclose(token_state: bytes, expiry: Expiry) -> bytes:
    """Return the token state with what is known."""
    if not token_state:
        return token_state
    enclosed = json.dumps(json.loads(token_state) | {"expiry": astuple(expiry)}).encode()
    return enclosed if len(enclosed) <= MAX_TOKEN_STATE else token_state


def learn(login: Login, session: Any, known: Expiry, now: float) -> Expiry:
    """Return when the credential expires by Keystone's word, or what is ``known`` of it.

    ``now`` is Unix time (s). Call it after a login.
    """
    access = login.plugin.auth_ref
    asked_lately = 0 <= now - known.asked < ASK_EVERY_S  # a clock that was set back asks again
    if asked_lately or access is None or access.application_credential_id is None:
        return known
    rules = access.application_credential_access_rules
    if rules is not None and not any(rule.get("service") == "identity" for rule in rules):
        return Expiry(None, now)  # Keystone would refuse
    path = f"/users/{access.user_id}/application_credentials/{access.application_credential_id}"
    try:
        # with the token at hand, unauthenticated to keystoneauth1: a refusal must not cost a second login
        response = session.get(
            login.auth_url.rstrip("/") + path,
            headers={"X-Auth-Token": access.auth_token, "Accept": "application/json"},
            authenticated=False,
            log=False,
        )
        return Expiry(_expires_at(response.content, access.application_credential_id), now)
    except (CloudError, MalformedError, keystone_errors.ClientException):
        return Expiry(known.at, now)


def _expires_at(untrusted: bytes, credential_id: str) -> float | None:
    """Return ``expires_at`` of an application credential (Identity API v3: UTC, without a zone)."""
    what = "the application credential"
    members = untrusted_json.mapping(untrusted_json.parse(untrusted, what), what)
    credential = untrusted_json.mapping(members.get("application_credential"), what)
    if credential.get("id") != credential_id:
        raise MalformedError("it is another application credential")
    untrusted_time = credential.get("expires_at")
    if untrusted_time is None:
        return None
    try:
        at = datetime.fromisoformat(untrusted_json.text(untrusted_time, "expires_at", 40))
        moment = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        moment = -1.0
    if not 0 <= moment <= LAST_TIME:
        raise MalformedError("expires_at is no time")
    return moment
