"""The runtime account's token for the beacon: sent to the cloud's own object store and to nobody else.

Goes on with the token of the last cycle; logs in where there is none, it has expired, or was refused. The
catalog that came with the token says where the object store is: a URL of another origin gets no token.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from keystoneauth1.session import Session

from agent import __version__
from agent.config.beacon import shown
from agent.core.errors import CloudError, Failure, Fault, Step
from agent.core.wire_watch import LOOK_S
from agent.fetch import classify, login, token_state
from agent.fetch.transport import Transport
from common import addresses, untrusted_json

if TYPE_CHECKING:
    import requests

    from agent.config.model import Config
    from agent.fetch.tunnel import Way


class Token:
    """One token for one URL. ``logins`` counts requests to Keystone."""

    def __init__(self, config: Config, url: str, kept: bytes, way: Way) -> None:
        """Raise CloudError where the credential can't be read; nothing is sent yet."""
        self._way: Final = way
        self._config: Final = config
        self._url: Final = url
        self._login: Final = login.prepare(config.keystone, os.environ)
        login.adopt(self._login, token_state.decode(kept, self._login.holder))
        self.logins = 0

    def get(self) -> str:
        """Return the token, by a login where that is needed.

        Raises:
            CloudError: Keystone gives none, or the URL is not one of this cloud's object store.
        """
        transport = Transport(self._login.auth_url, self._config.fetch, time.monotonic() + LOOK_S, self._way)
        failure: Failure | None = None
        try:
            with transport.session() as session:
                access = self._login.plugin.get_access(self._session(session))
            endpoints = access.service_catalog.get_endpoints_data(service_type=login.OBJECT_STORE)
            token = str(access.auth_token)
        except Exception as error:  # noqa: BLE001  # the edge: nothing of a library's error may leave
            failure = classify.failure(error, transport.answer)
        self.logins += sum(transport.calls()["keystone"].values())
        if failure is not None:
            raise CloudError(failure)
        urls = [str(endpoint.url) for endpoint in endpoints.get(login.OBJECT_STORE, ())]
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
    """Return scheme, host and port of a URL, whatever its query, or None where it has none."""
    address = addresses.parse(untrusted_url.partition("?")[0])
    return address.origin if address else None
