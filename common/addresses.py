"""Addresses of HTTP services in one form, so that comparing them compares what they mean.

``https://Keystone.Example.org:443/v3/`` and ``https://keystone.example.org/v3`` are one address (RFC 3986,
6.2.2 and 6.2.3): scheme and host in lower case, no port that the scheme implies, no slash at the end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from common.places import DEFAULT_PORTS

_HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?")
_PATH: Final = re.compile(
    r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*"
)  # RFC 3986, 3.3; no . or ..
_MOST: Final = 2048


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is. ``host`` is a name or an address, without brackets; ``path`` may be empty."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """Scheme, host and port (RFC 6454, 4)."""
        return self.scheme, self.host, self.port

    def holds(self, other: Address) -> bool:
        """Return whether another address is this one or below it."""
        below = other.path == self.path or other.path.startswith(self.path + "/")
        return self.origin == other.origin and below

    def __str__(self) -> str:
        """Return it as a URL without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse(untrusted_url: str) -> Address | None:
    """Return the address of an http or https URL, or None where it is none or has more than an address.

    More than an address are a user, a query and a fragment. A path with a segment ``.`` or ``..`` is none:
    clients and servers differ over what it means.
    """
    if len(untrusted_url) > _MOST or not untrusted_url.isprintable():
        return None
    try:
        parts = urlsplit(untrusted_url)
        port = parts.port
    except ValueError:
        return None
    host, path = _host(parts.hostname or ""), parts.path.rstrip("/")
    whole = not (parts.query or parts.fragment or "@" in parts.netloc or set("?#\\ ") & set(untrusted_url))
    if (
        not whole
        or parts.scheme not in DEFAULT_PORTS
        or host is None
        or port == 0
        or not _PATH.fullmatch(path)
    ):
        return None
    return Address(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], path)


def _host(text: str) -> str | None:
    """Return a host in its one form: lower case, a name without its last dot, an IPv6 address as RFC 5952."""
    if ":" in text:
        with contextlib.suppress(ValueError):
            address = ipaddress.IPv6Address(text)
            return str(address) if address.scope_id is None else None
        return None
    try:
        name = text.encode("idna").decode() if text else ""
    except UnicodeError:
        return None
    name = name.lower().removesuffix(".")
    return name if _HOST.fullmatch(name) else None
