"""The way to a host: straight, or through a proxy that is asked to connect (RFC 9110, 9.3.6).

What is refused by the proxy, or hangs there, is the proxy's failure and says so. Once it has connected, it
passes bytes on, and TLS is spoken with the host itself, whose certificate is checked as without a proxy.
Plain ``http://`` is for loopback only (agent/config/addresses.py) and never goes to a proxy. Invariants:
nothing comes from the environment; the password is in one header of one request to the proxy, and in no
text; no byte after the proxy's head is read here.
"""

from __future__ import annotations

import base64
import errno
import re
import socket
import time
from typing import TYPE_CHECKING, Final

from agent import __version__
from agent.config.proxy import NO_CREDENTIAL
from agent.fetch import racing
from agent.fetch.credential import read_secret, refuse
from common.proxying import is_exempt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.config.model import Proxy

MAX_HEAD: Final = 16 * 1024
"""Bytes of the proxy's answer."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r\n")
_HOST: Final = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
_ADVICE: Final = {
    401: "it wants a login: set keystone.proxy_user and the credential proxy-password",
    403: "it does not allow {place}: allow it in the proxy's own configuration",
    405: "it does not connect for others (CONNECT): check that keystone.proxy is a proxy",
    407: "{login}",
    502: "it can't reach {place}: check the proxy's own DNS and way out",
    503: "it is overloaded, or can't reach {place}: the proxy's own log says why",
    504: "it has no answer from {place}: check the proxy's own way out",
}
_REFUSED: Final = "it refuses keystone.proxy_user with its password: give it the right one"
_MISSING: Final = (
    "keystone.proxy_user has no password here: systemd-creds encrypt --name=proxy-password - "
    "/etc/vps-secrets-agent/proxy-password.cred, with the password on its standard input"
)
_OTHER: Final = "it did not connect to {place}: the proxy's own log says why"


class ProxyError(OSError):
    """The proxy did not connect. ``status`` is its answer's, where there was one; the text is advice."""

    def __init__(self, advice: str, status: int | None = None) -> None:
        super().__init__(advice)
        self.advice = advice
        self.status = status


class Way:
    """How connections of TLS are made. ``proxy`` None: straight."""

    def __init__(self, proxy: Proxy | None = None, password: str | None = None) -> None:
        """``password`` is that of ``proxy.user``."""
        self._proxy: Final = proxy
        self._login = ""
        if proxy is not None and proxy.user is not None:
            pair = f"{proxy.user}:{password or ''}".encode()
            self._login = f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}\r\n"

    def connect(self, host: str, port: int, timeout: float) -> socket.socket:
        """Return a connection to ``host``, made within ``timeout`` (s), then its time-out.

        Raises:
            ProxyError: the proxy can't be reached, or did not connect.
            OSError: as racing.connect raises it, of a host that is reached straight.
        """
        if self._proxy is None or is_exempt(self._proxy.exempt, host):
            return racing.connect(host, port, timeout)
        end = time.monotonic() + timeout
        connection = self._to_proxy(self._proxy, timeout)
        try:
            self._ask(connection, host.strip("[]"), port, end)
            connection.settimeout(timeout)
        except BaseException:
            connection.close()
            raise
        return connection

    def _to_proxy(self, proxy: Proxy, timeout: float) -> socket.socket:
        where, reason = f"{proxy.host}:{proxy.port}", ""
        try:
            return racing.connect(proxy.host, proxy.port, timeout)
        except socket.gaierror:
            reason = f"the name {proxy.host} does not resolve: check keystone.proxy and this machine's DNS"
        except TimeoutError:
            reason = f"no answer from {where} in time: check the proxy, the way to it and firewalls"
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            reason = f"the connection to {where} failed ({name}): check keystone.proxy and the proxy"
        raise ProxyError(reason)

    def _ask(self, connection: socket.socket, host: str, port: int, end: float) -> None:
        """Have the proxy connect."""
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if not _HOST.fullmatch(host):  # it would stand in the head of a request
            raise ProxyError("the name of the host has a character that no name has: check the address")
        agent = f"User-Agent: vps-secrets-agent/{__version__}\r\n"
        request = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{agent}{self._login}\r\n"
        reason, head = "", b""
        try:
            connection.sendall(request.encode("ascii"))
            head = _head(connection, end)
        except TimeoutError:
            reason = f"it has not connected to {place} in time: check the proxy and its own way out"
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            reason = f"it broke off ({name}): the proxy's own log says why"
        status = _STATUS.match(head)
        if status is None:
            raise ProxyError(reason or "its answer is not HTTP: check that keystone.proxy is a proxy")
        if not status[1].startswith(b"2"):
            number = int(status[1])
            login = _REFUSED if self._login else _ADVICE[401]
            raise ProxyError(_ADVICE.get(number, _OTHER).format(place=place, login=login), number)


STRAIGHT: Final = Way()
"""No proxy."""


def way(proxy: Proxy | None, environ: Mapping[str, str]) -> Way:
    """Return the configured way for a program whose credentials systemd loads.

    Raises:
        CloudError: the proxy's password can't be read (step credential).
    """
    if proxy is None or proxy.user is None:
        return Way(proxy)
    password = read_secret(proxy.password, environ)
    if proxy.password.name is not None and password == NO_CREDENTIAL:
        refuse(f"read credential {proxy.password.name}", _MISSING)
    return Way(proxy, password)


def _head(connection: socket.socket, end: float) -> bytes:
    """Return the answer up to its empty line and no byte more: what follows is the host's."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        byte = connection.recv(1)
        if not byte or len(head) >= MAX_HEAD:
            return b""
        head += byte
    return bytes(head)
