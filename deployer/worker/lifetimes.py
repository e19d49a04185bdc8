"""Once a day, how long the deployer's own credentials still last: asked, kept for everybody, warned about.

The certificates of the API are the API's own to look at (deployer/api/certificates.py).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from common.errors import VpsSecretsError
from deployer.cloud import own_login
from deployer.core import lifetimes
from deployer.core.lifetimes import Lifetime
from deployer.database import checks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keystoneauth1.session import Session
    from sqlalchemy.engine import Connection

    from deployer.database.checks import CheckRow
    from deployer.database.engine import Database
    from deployer.worker.registrar import Registrar

LOG: Final = logging.getLogger("deployer.worker")
AGAIN_S: Final = 3600.0
"""Before the next look where something is not known."""
WORKER: Final = "application credential of the worker"
AGE_KEY: Final = "age key "
REGISTRAR: Final = "password of the registrar"
RENEW_WORKER: Final = "vps-secrets-deploy cloud credential deployment-service; runbook credential-ends"
RENEW_REGISTRAR: Final = "vps-secrets-deploy cloud credential registrar; runbook credential-ends"
RENEW_BACKUP: Final = "make a new one for its account; runbook credential-ends"
RENEW_AGE: Final = "it has no end; replace it when you doubt it; runbook credential-ends"


def of_login(name: str, renew: str, auth_url: str, login: Callable[[], tuple[Session, str]]) -> Lifetime:
    """Return how long an application credential lasts; ``login`` gives its session and its id.

    Raises:
        VpsSecretsError: it is not known.
    """
    session, credential_id = login()
    ends = own_login.application_credential_ends(session, auth_url, credential_id)
    return Lifetime(name, ends=ends, renew=renew)


def of_registrar(registrar: Registrar) -> Lifetime:
    """Return how long the registrar's password lasts.

    Raises:
        CloudError: it is not known.
    """
    dates = registrar.password_dates()
    return Lifetime(REGISTRAR, dates.ends, dates.since, renew=RENEW_REGISTRAR)


class Keeper:
    """Asks for each, keeps what it hears as checks, and warns once a day."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], float],
        ask: Sequence[tuple[str, str, Callable[[], Lifetime]]],
        recipients: Sequence[str] | None = None,
    ) -> None:
        """``ask``: name, what to do, and the question, which raises VpsSecretsError.

        ``recipients`` are the age keys of now; None leaves them to somebody else.
        """
        self._database = database
        self._now = now
        self._ask = tuple(ask)
        self._recipients = None if recipients is None else tuple(recipients)

    def look(self) -> float:
        """Look at all; return the seconds until the next look.

        Raises:
            DatabaseError: the database is away.
        """
        now = self._now()
        found = [self._asked(*one) for one in self._ask]
        with self._database.write() as c:
            known = {row.name: row for row in checks.latest(c)}
            found += self._keys(c, known, now)
            for one in found:
                warns = lifetimes.warning(one, now)
                checks.record(c, now, lifetimes.PREFIX + one.name, passed=not warns, detail=one.detail())
            checks.prune(c, now - lifetimes.LOOKED_AT_S)
        for one in found:
            if said := lifetimes.warning(one, now):
                LOG.warning("%s", said)
        return AGAIN_S if any(one.problem for one in found) else lifetimes.DAY_S

    def is_old(self) -> bool:
        """Return whether something of it was not looked at for a day.

        Raises:
            DatabaseError: the database is away.
        """
        with self._database.read() as c:
            known = {row.name: row.at for row in checks.latest(c)}
        since = self._now() - lifetimes.DAY_S
        return any(known.get(lifetimes.PREFIX + name, 0.0) < since for name, _, _ in self._ask)

    def _keys(self, c: Connection, known: Mapping[str, CheckRow], now: float) -> list[Lifetime]:
        """Return how old the age keys are, and forget those that are not used any more."""
        if self._recipients is None:
            return []
        names = {f"{lifetimes.PREFIX}{AGE_KEY}{key}": f"{AGE_KEY}{key}" for key in self._recipients}
        for name in known:
            if name.startswith(lifetimes.PREFIX + AGE_KEY) and name not in names:
                checks.forget(c, name)
        found = []
        for check, name in names.items():
            since = known[check].detail.get("since") if check in known else None
            found.append(Lifetime(name, since=float(since) if since else now, renew=RENEW_AGE))
        return found

    @staticmethod
    def _asked(name: str, renew: str, ask: Callable[[], Lifetime]) -> Lifetime:
        try:
            return ask()
        except VpsSecretsError as error:
            return Lifetime(name, problem=f"how long it lasts is not known: {error}", renew=renew)
