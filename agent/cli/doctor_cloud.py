"""What ``vps-secrets doctor`` tries in the cloud, with this VPS's own credential: it can, and can no more.

Only GET: nothing is made, changed or ended there, and no payload is asked for.
"""

from __future__ import annotations

import email.utils
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.config import addresses
from agent.config.model import Method
from agent.core import renewal
from agent.identity import credential_file, ways
from agent.identity.account import Account
from agent.identity.calls import Line
from agent.identity.errors import CredentialFileError, IdentityError
from common import addresses as common_addresses
from common.finding import FAILURE, OK, WARNING, Finding
from common.proxying import is_exempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.config.model import Config, Proxy

CONNECT_S: Final = 3.0
SKEW_S: Final = 30.0
"""So far apart clocks may be: tokens are judged by Keystone's."""
ANY: Final = range(200, 600)
BY_RULES: Final = 401
"""So Barbican answers what an access rule forbids; what a role forbids is 403."""
REFUSED: Final = frozenset({401, 403, 404})
_RULES: Final = "the access rules of its credential do not bind: docs/provisioning.md"


class _Probe(NamedTuple):
    """A request that must be refused."""

    url: str
    words: str


def findings(config: Config, neighbours: tuple[str, ...]) -> Iterator[Finding]:
    """Yield how the way to the cloud is, and what the account can do there."""
    keystone = config.keystone
    if keystone.method is not Method.APPLICATION_CREDENTIAL or keystone.auth_url is None:
        words = f"it logs in by {keystone.method.value}: not tried"
        yield Finding(WARNING, "account", words, "an application credential can be bound by access rules")
        return
    yield from _way("Keystone", keystone.auth_url, keystone.proxy)
    try:
        way = ways.way(keystone.proxy, config.path.parent)
        line = Line(str(keystone.ca_file) if keystone.ca_file else None, way)
        answer = line.call("GET", keystone.auth_url, "ask Keystone for its version", ANY)
        yield _clock(answer.headers.get("Date", ""))
        pair = _pair(config)
        token = Account(line, keystone.auth_url, "").log_in_with(pair.id, pair.secret)
    except (IdentityError, CredentialFileError) as error:
        yield Finding(FAILURE, "login", str(error), "docs/operating.md, Troubleshooting")
        return
    yield Finding(OK, "login", f"as project {token.project_id}")
    given = keystone.endpoint_override or token.endpoint(
        keystone.service_type, keystone.region, keystone.interface
    )
    base = addresses.barbican_of(given or "")
    if base is None:
        words = f"Keystone's catalog has no {keystone.service_type} for this region and interface"
        yield Finding(FAILURE, "catalog", words, "region, interface or endpoint_override in agent.toml")
        return
    yield from _way("Barbican", str(base), keystone.proxy)

    def status(url: str, service: str = "") -> int | str:
        try:
            return line.call("GET", url, f"GET {url}", ANY, token=token.value, service=service).status
        except IdentityError as error:
            return error.reason

    own = f"{base}/v1/containers/{config.container.id}"
    said = status(own)
    remedy = "" if said == 200 else "docs/provisioning.md: the ACL, or an access rule"  # noqa: PLR2004  # RFC 9110
    yield Finding(OK if not remedy else FAILURE, "container", f"{own}: {_told(said)}", remedy)
    yield from _account(status, token.value, _probes(config, str(base), keystone.auth_url, own, neighbours))


def _account(status: Callable[..., int | str], token: str, probes: Iterator[_Probe]) -> Iterator[Finding]:
    """Try what must be refused, and once more what an access rule refused, in the way that is known."""
    by_rules = ""
    for probe in probes:
        said = status(probe.url)
        if said in REFUSED:
            yield Finding(OK, "account", f"can't {probe.words} ({said})")
        elif isinstance(said, int) and said < 300:  # noqa: PLR2004  # RFC 9110
            yield Finding(FAILURE, "account", f"can {probe.words}", _RULES)
        else:
            yield Finding(WARNING, "account", f"not known whether it can {probe.words}: {_told(said)}")
        if said == BY_RULES and "/v1/" in probe.url:  # Barbican's; Keystone asks for its rules by itself
            by_rules = by_rules or probe.url
    if by_rules:
        yield _bypassed(status(by_rules, token))


def _bypassed(said: int | str) -> Finding:
    """Judge the answer to what access rules forbid, asked again with the own token as a service's, too.

    keystonemiddleware before 13 then asks for no rule any more, and Barbican's roles decide.
    """
    if said == BY_RULES:
        return Finding(OK, "access rules", "they bind, also for who adds X-Service-Token")
    words = f"whoever adds X-Service-Token to a call is bound by no access rule of this cloud: {_told(said)}"
    return Finding(WARNING, "access rules", words, "its operator: service_token_roles_required = true")


def _probes(
    config: Config, base: str, auth_url: str, own: str, neighbours: tuple[str, ...]
) -> Iterator[_Probe]:
    if not config.fetch.list_metadata:
        yield _Probe(f"{base}/v1/secrets?limit=1", "list the project's secrets")
    yield _Probe(f"{base}/v1/containers?limit=1", "list the project's containers")
    yield _Probe(f"{base}/v1/orders?limit=1", "list the project's orders")
    yield _Probe(f"{own}/acl", "read who else may read its container")
    yield _Probe(f"{auth_url}/credentials", "list what its user has in Keystone (EC2, TOTP)")
    for neighbour in neighbours:
        yield _Probe(f"{base}/v1/containers/{neighbour}", f"read the container {neighbour}")


def _pair(config: Config) -> renewal.Pair:
    """Return id and secret, wherever the secret is.

    Raises:
        CredentialFileError: it can't be read.
    """
    source, configured = config.keystone.credential, config.keystone.application_credential_id or ""
    if source.name is not None:
        content = credential_file.read(source.name, config.path.parent)
    elif source.file is not None:
        content = source.file.read_bytes()
    else:
        content = None
    if content is None:
        raise CredentialFileError("the credential is not in a file of this machine")
    text = content.decode(errors="replace").rstrip("\n")
    return renewal.pair(text) or renewal.Pair(configured, text)


def _way(service: str, url: str, proxy: Proxy | None) -> Iterator[Finding]:
    """Look the name up, and connect to each address of both families; of the proxy where that is the way."""
    address = common_addresses.parse(url)
    if address is None:
        return
    host, port = address.host, address.port
    if proxy is not None and address.scheme == "https" and not is_exempt(proxy.exempt, host):
        host, port, service = proxy.host, proxy.port, f"the proxy, for {service}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield Finding(FAILURE, f"DNS, {service}", f"{host}: {error.strerror}", "resolvectl status")
        return
    for family, kind, protocol, _, where in found:
        name = "IPv6" if family == socket.AF_INET6 else "IPv4"
        try:
            with socket.socket(family, kind, protocol) as connection:
                connection.settimeout(CONNECT_S)
                connection.connect(where)
        except OSError as error:
            words = f"{host} by {name}, {where[0]}: {error.strerror or 'no answer'}"
            level = WARNING if len(found) > 1 else FAILURE
            yield Finding(level, f"way to {service}", words, "route, firewall, or the name's records")
        else:
            yield Finding(OK, f"way to {service}", f"{host} by {name}, {where[0]}")


def _clock(date: str) -> Finding:
    try:
        skew = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return Finding(WARNING, "clock", "Keystone does not say what time it is")
    if abs(skew) <= SKEW_S:
        return Finding(OK, "clock", f"{abs(skew):.0f} s from Keystone's")
    which = "ahead of" if skew > 0 else "behind"
    return Finding(FAILURE, "clock", f"{abs(skew):.0f} s {which} Keystone's", "timedatectl set-ntp true")


def _told(said: int | str) -> str:
    return f"HTTP {said}" if isinstance(said, int) else said
