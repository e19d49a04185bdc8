"""When the login of a program itself ends, by Keystone's word: it asks for nothing but its own account."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from common import untrusted_json
from common.dates import LAST_TIME, date, parse
from common.untrusted_json import MalformedError
from deployer.cloud.calls import access, call
from deployer.cloud.errors import CloudError

if TYPE_CHECKING:
    from keystoneauth1.session import Session

PASSWORD_OF: Final = "vps-secrets: password of "  # noqa: S105  # a label
"""How the description of an account begins whose password ``cloud credential`` made; a date follows."""
_OK: Final = (200,)
_UNKNOWN_TO_RULES: Final = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class PasswordDates:
    """When a password ends, and since when it is in force (Unix time, s); None: never, not known."""

    ends: float | None
    since: float | None


def application_credential_ends(session: Session, auth_url: str, credential_id: str) -> float | None:
    """Return when the application credential of this session ends; None: never.

    Raises:
        CloudError: it is not known.
    """
    step = "ask when the application credential ends"
    user_id = str(access(session, step).user_id)
    url = f"{auth_url.rstrip('/')}/users/{user_id}/application_credentials/{credential_id}"
    problem = ""
    try:
        answer = call(session, "GET", url, step, _OK)
    except CloudError as error:
        if error.status not in _UNKNOWN_TO_RULES:
            raise
        problem = "its access rules do not let it ask Keystone: a new one may"
    if problem:
        raise CloudError(step, problem, retriable=False)

    def read(untrusted: object) -> float | None:
        members = untrusted_json.mapping(untrusted, "the answer")
        credential = untrusted_json.mapping(members.get("application_credential"), "the credential")
        return _moment(credential.get("expires_at"))

    found: float | None = answer.read(read)
    return found


def password_dates(session: Session, auth_url: str) -> PasswordDates:
    """Return the dates of the password by which this session logs in.

    Raises:
        CloudError: they are not known.
    """
    step = "ask when the password ends"
    user_id = str(access(session, step).user_id)
    answer = call(session, "GET", f"{auth_url.rstrip('/')}/users/{user_id}", step, _OK)

    def read(untrusted: object) -> PasswordDates:
        user = untrusted_json.mapping(untrusted_json.mapping(untrusted, "the answer").get("user"), "the user")
        said = user.get("description")
        since = parse(said.removeprefix(PASSWORD_OF)) if isinstance(said, str) else None
        return PasswordDates(_moment(user.get("password_expires_at")), since)

    found: PasswordDates = answer.read(read)
    return found


def password_label(now: float) -> str:
    """Return the description of an account whose password is made now."""
    return PASSWORD_OF + date(now)


def _moment(untrusted: object) -> float | None:
    """Return a date of Keystone's (UTC, without a zone) as Unix time (s)."""
    if untrusted is None:
        return None
    moment = -1.0
    try:
        at = datetime.fromisoformat(untrusted_json.text(untrusted, "a date", 40))
        moment = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    if not 0 <= moment <= LAST_TIME:
        raise MalformedError("a date is none")
    return moment
