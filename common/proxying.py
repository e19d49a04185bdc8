"""Which hosts are reached through a proxy: ``proxy`` and ``no_proxy`` of both products' configurations.

Names are compared as they are written, a network only with an address: nothing is resolved to decide.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from common import addresses

URL: Final = "must be the proxy as http://HOST:PORT, without user, password or path"
EXEMPT: Final = (
    'must be a list of names ("internal.example.org": it and all below), addresses and networks '
    '("10.0.0.0/8"), without ports'
)
_NAME: Final = re.compile(r"\.?[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?")
_USER: Final = re.compile(r"[!-9;-~]{1,200}")  # RFC 7617, 2: no colon


def proxy_url(text: str) -> str | None:
    """Return a proxy's address in its one form, or None where it is none, or has no port of its own."""
    address = addresses.parse(text)
    written = re.search(r":\d+/?$", text)
    return str(address) if address and address.scheme == "http" and not address.path and written else None


def proxy_user(text: str) -> str | None:
    """Return the name of a login at a proxy, or None where it can't be one."""
    return text if _USER.fullmatch(text) else None


def exempt(value: object) -> tuple[str, ...] | None:
    """Return what is written in ``no_proxy`` in its one form, or None where it is wrong."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    found = tuple(one.lower().removesuffix(".") for one in value)
    return found if all(_network(one) or _NAME.fullmatch(one) for one in found) else None


def is_exempt(exempted: tuple[str, ...], host: str) -> bool:
    """Return whether a host, a name or an address, is reached straight."""
    plain = host.strip("[]").lower().removesuffix(".")
    try:
        found = ipaddress.ip_address(plain)
    except ValueError:
        return any(plain == one.lstrip(".") or plain.endswith("." + one.lstrip(".")) for one in exempted)
    return any(found in network for network in map(_network, exempted) if network is not None)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"))
    except ValueError:
        return None
