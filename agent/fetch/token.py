"""The runtime account's token for the beacon: sent to the cloud's own object store and to nobody else.

Goes on with the token of the last cycle; logs in where there is none, it has expired, or was refused. The
catalog that came with the token says where the object store is: a URL of another origin gets no token.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from keystoneauth1.session import Session

from agent import __version__
from agent.config.beacon import shown
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.wire_watch import LOOK_S
from agent.fetch import classify, login
from agent.fetch.transport import Transport
from common import untrusted_json
from common.places import DEFAULT_PORTS

if TYPE_CHECKING:
    import requests

    from agent.config.model import Config

SERVICE_TYPE: Final = "object-store"


class Token:
    """One token for one URL. ``logins`` counts requests to Keystone."""

    def __init__(self, config: Config, url: str, token_state: bytes) -> None:
        """Raise CloudError where the credential can't be read; nothing is sent yet."""
        self._config: Final = config
        self._url: Final = url
        self._login: Final = login.prepare(config.keystone, os.environ)
        login.adopt(self._login, token_state)
        self.logins = 0

    def get(self) -> str:
        """Return the token, by a login where that is needed.

        Raises:
            CloudError: Keystone gives none, or the URL is not one of this cloud's object store.
        """
        transport = Transport(self._login.auth_url, self._config.fetch, time.monotonic() + LOOK_S)
        failure: Failure | None = None
        try:
            with transport.session() as session:
                access = self._login.plugin.get_access(self._session(session))
            endpoints = access.service_catalog.get_endpoints_data(service_type=SERVICE_TYPE)
            token = str(access.auth_token)
        except Exception as error:  # noqa: BLE001  # the edge: nothing of a library's error may leave
            failure = classify.failure(error, transport)
        self.logins += sum(transport.calls()["keystone"].values())
        if failure is not None:
            raise CloudError(failure)
        urls = [str(endpoint.url) for endpoint in endpoints.get(SERVICE_TYPE, ())]
        if origin(self._url) not in map(origin, urls):
            raise CloudError(self._foreign())
        return token

    def refused(self) -> None:
        """Note that the last token was refused: the next one comes from a login."""
        self._login.plugin.invalidate()

    def _session(self, session: requests.Session) -> Session:
        return Session(
            session=session,
            verify=self._login.ca_file or True,
            user_agent=f"vps-secrets-agent/{__version__}",
            redirect=False,
        )

    def _foreign(self) -> Failure:
        tried = untrusted_json.printable(f"send a token to {shown(self._url)}", 300)
        advice = (
            "Keystone's catalog has no object store there, so no token is sent: correct beacon.url, "
            'or give a temporary URL and auth = "none"'
        )
        return Failure(Step.BEACON, Fault.TRANSIENT, tried, advice)


def origin(untrusted_url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port (RFC 6454), or None where it has none."""
    try:
        parts = urlsplit(untrusted_url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None
