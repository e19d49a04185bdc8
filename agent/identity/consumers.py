"""What a VPS says in its container by its password's token: its public key, and no other's.

Source: Key Manager API v1, consumers of a container; whom its ACL names may add and delete them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.config import addresses
from agent.identity.errors import IdentityError
from common import untrusted_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.identity.account import Token
    from agent.identity.calls import Line

_MAX: Final = 1000
_MAX_NAME: Final = 255
_MAX_URL: Final = 500


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that a container lists."""

    name: str
    url: str


def url_of(untrusted_endpoint: str | None, auth_url: str, container_id: str) -> str:
    """Return the container's URL at Barbican's endpoint, which Keystone's catalog gives.

    Raises:
        IdentityError: there is none, or it would take the token from HTTPS to plain HTTP.
    """
    step = "look up Barbican in Keystone's catalog"
    address = None if untrusted_endpoint is None else addresses.barbican_of(untrusted_endpoint)
    if address is None:
        reason = "it has no such service for this account: is the region right?"
    elif auth_url.startswith("https:") and address.scheme != "https":
        reason = "Keystone speaks HTTPS and Barbican's endpoint does not: a token is not sent in clear"
    else:
        return f"{address}/v1/containers/{container_id}"
    raise IdentityError(step, reason, retriable=False)


class Consumers:
    """Those of the container at ``url``. Every method may raise IdentityError."""

    def __init__(self, line: Line, url: str) -> None:
        self._line = line
        self._url = url

    def listed(self, token: Token) -> tuple[Consumer, ...]:
        """Return those that the container lists."""
        step = "read the container"
        return self._line.call("GET", self._url, step, (200,), token=token.value).read(_listed)

    def add(self, token: Token, consumer: Mapping[str, str]) -> None:
        """Register one; it may be there already."""
        url, step = f"{self._url}/consumers", "register in the container"
        self._line.call("POST", url, step, (200, 201), json=dict(consumer), token=token.value)

    def remove(self, token: Token, consumer: Consumer) -> None:
        """Delete one; it may be gone already."""
        url, step = f"{self._url}/consumers", "delete a consumer of the container"
        body = {"name": consumer.name, "URL": consumer.url}
        self._line.call("DELETE", url, step, (200, 204, 404), json=body, token=token.value)


def _listed(untrusted: object) -> tuple[Consumer, ...]:
    container = untrusted_json.mapping(untrusted, "the container")
    listed = untrusted_json.array(container.get("consumers"), "consumers", _MAX)
    members = [untrusted_json.mapping(one, "a consumer") for one in listed]
    return tuple(
        Consumer(
            untrusted_json.text(one.get("name"), "a consumer's name", _MAX_NAME),
            untrusted_json.text(one.get("URL"), "a consumer's URL", _MAX_URL),
        )
        for one in members
    )
