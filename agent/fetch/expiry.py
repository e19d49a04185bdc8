"""When the application credential expires: Keystone tells its own token, where no access rule forbids it.

Asked after a login, once a day, and remembered with the token state, so that a quiet cycle asks nothing. Not
to know it is no failure: what the cycle is for has been done before.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from keystoneauth1 import exceptions as keystone_errors

from agent.core.errors import CloudError
from agent.fetch.token_state import Expiry
from common import untrusted_json
from common.dates import LAST_TIME
from common.untrusted_json import MalformedError

if TYPE_CHECKING:
    from agent.fetch.login import Login

ASK_EVERY_S: Final = 86_400.0


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
            login.auth_url + path,
            headers={"X-Auth-Token": access.auth_token, "Accept": "application/json"},
            authenticated=False,
            log=False,
        )
        return Expiry(_expires_at(response.content, access.application_credential_id), now)
    except (CloudError, MalformedError) as error:
        problem = str(error)
    except keystone_errors.ClientException as error:
        problem = type(error).__name__
    return Expiry(known.at, now, problem)


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
