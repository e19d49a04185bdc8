"""What ``vps-secrets-deploy doctor`` tries in the cloud, with the deployer's own credentials.

Only GET, but for logins: nothing is made, changed or ended, and no payload is asked for that exists.
"""

from __future__ import annotations

import email.utils
import functools
import os
import socket
import ssl
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

from common import addresses
from common.durations import span
from common.errors import VpsSecretsError
from common.finding import FAILURE, OK, WARNING, Finding
from deployer.backup import places
from deployer.cloud import calls
from deployer.cloud.cloud_file import FORBIDDEN
from deployer.config.model import BackupKind
from deployer.core.lifetimes import DAY_S
from deployer.worker import opening
from deployer.worker.registrar import Registrar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deployer.config.model import Config, Keystone

CONNECT_S: Final = 3.0
SKEW_S: Final = 30.0
"""So far apart clocks may be: tokens are judged by Keystone's."""
ENOUGH: Final = frozenset({"creator", "member", "reader"})
"""Roles that the worker needs, and what they imply."""
SOON_S: Final = 14 * DAY_S
ANY: Final = range(200, 600)
REFUSED: Final = frozenset({401, 403})
_GOOD: Final = 200
_ABSENT: Final = 404


def findings(config: Config) -> Iterator[Finding]:
    """Yield how the way to each service is, and what the accounts can do there."""
    if config.keystone is None:
        yield Finding(FAILURE, "Keystone", "deployer.toml has no [keystone]", "docs/deployment.md, Install")
        return
    yield from way("Keystone", config.keystone.auth_url, config.keystone.ca_file)
    yield from _worker(config, config.keystone)
    yield from _registrar(config)
    for place in config.backups:
        if place.kind is BackupKind.SWIFT:
            yield from way(f"backup {place.name}", place.location, config.keystone.ca_file)
            yield _logged_in(
                f"login of backup {place.name}", functools.partial(places.session, config, place, os.environ)
            )
    if config.beacon is not None and config.beacon.url is not None:
        yield from way("beacon", config.beacon.url, config.keystone.ca_file)
    for server in config.postgresql.values():
        if not server.host.startswith("/"):
            yield from _connections(f"PostgreSQL {server.name}", server.host, server.port)


def _worker(config: Config, keystone: Keystone) -> Iterator[Finding]:
    try:
        session = opening.session_of(config, keystone)
        access = calls.access(session, "log in as the deployment service")
        answer = calls.call(
            session, "GET", keystone.auth_url, "ask Keystone for its version", ANY, authenticated=False
        )
        base = opening.endpoint(session, keystone)
    except VpsSecretsError as error:
        yield Finding(FAILURE, "login of the worker", str(error), "docs/runbooks/credential-ends.md")
        return
    yield Finding(OK, "login of the worker", f"as {access.username} in project {access.project_name}")
    yield clock(answer.headers.get("Date", ""), time.time())
    yield roles(frozenset(str(name) for name in access.role_names or ()))
    yield from way("Barbican", base, keystone.ca_file)
    yield from _barbican(session, base)


def _barbican(session: Any, base: str) -> Iterator[Finding]:
    """Look whether it can list, and whether it can ask for a payload: of a secret that is not there."""
    probes = (
        ("list containers", f"{base}/v1/containers?limit=1"),
        ("payloads", f"{base}/v1/secrets/{uuid.uuid4()}/payload"),
    )
    said: list[int] = []
    for words, url in probes:
        try:
            said.append(calls.call(session, "GET", url, words, ANY).status)
        except VpsSecretsError as error:
            yield Finding(FAILURE, "Barbican", str(error), "docs/runbooks/barbican-away.md")
            return
    listed, payload = said
    if listed == _GOOD:
        yield Finding(OK, "Barbican", f"{base}: the worker can list containers")
    else:
        words = f"{base}: the worker can't list containers: HTTP {listed}"
        yield Finding(FAILURE, "Barbican", words, "vps-secrets-deploy cloud plan")
    if payload in REFUSED:
        yield Finding(OK, "account of the worker", f"can't ask for payloads ({payload})")
    elif payload == _ABSENT:
        words = "could read the values that it made: the access rules of its credential do not bind"
        yield Finding(FAILURE, "account of the worker", words, "vps-secrets-deploy cloud verify")
    else:
        words = f"not known whether it can read values: HTTP {payload}"
        yield Finding(WARNING, "account of the worker", words)


def roles(held: frozenset[str]) -> Finding:
    """Judge the roles that the worker's token has."""
    more = sorted(held - ENOUGH)
    words = f"roles {', '.join(sorted(held)) or 'none'}"
    if not more:
        return Finding(OK, "roles of the worker", words)
    level = FAILURE if FORBIDDEN in more else WARNING
    return Finding(
        level, "roles of the worker", f"{words}: more than needed", "vps-secrets-deploy cloud plan"
    )


def _registrar(config: Config) -> Iterator[Finding]:
    """Ask it about its own password; one with a pool has none, and is only connected to."""
    path, what = config.registrar.socket.path, "registrar"
    if config.registrar.pool is not None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(CONNECT_S)
            try:
                connection.connect(str(path))
            except OSError as error:
                words = f"{path}: {error.strerror or 'no answer'}"
                yield Finding(FAILURE, what, words, "docs/runbooks/registrar-away.md")
            else:
                yield Finding(OK, what, f"{path} takes connections; it has a pool of users")
        return
    try:
        dates = Registrar(path).password_dates()
    except VpsSecretsError as error:
        yield Finding(FAILURE, what, str(error), "docs/runbooks/registrar-away.md")
        return
    age = f", {span(time.time() - dates.since)} old" if dates.since is not None else ""
    yield Finding(OK, what, f"{path}: it can log in; its password" + (age or " has no known age"))


def _logged_in(what: str, session: Callable[[], Any]) -> Finding:
    try:
        access = calls.access(session(), "log in")
    except VpsSecretsError as error:
        return Finding(FAILURE, what, str(error), "docs/runbooks/credential-ends.md")
    return Finding(OK, what, f"as {access.username}")


def clock(date: str, now: float) -> Finding:
    """Compare this machine's clock (Unix time, s) with the Date that Keystone says."""
    try:
        skew = now - email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return Finding(WARNING, "clock", "Keystone does not say what time it is")
    if abs(skew) <= SKEW_S:
        return Finding(OK, "clock", f"{abs(skew):.0f} s from Keystone's")
    which = "ahead of" if skew > 0 else "behind"
    return Finding(FAILURE, "clock", f"{abs(skew):.0f} s {which} Keystone's", "timedatectl set-ntp true")


def way(service: str, url: str, ca_file: Path | None) -> Iterator[Finding]:
    """Look the name up, connect to each address of both families, and look when its certificate ends."""
    address = addresses.parse(url)
    if address is None:
        yield Finding(FAILURE, f"way to {service}", "its address is none that HTTP has")
        return
    found = list(_connections(service, address.host, address.port))
    yield from found
    if address.scheme == "https" and any(one.level == OK for one in found):
        yield _certificate(service, address.host, address.port, ca_file)


def _connections(service: str, host: str, port: int) -> Iterator[Finding]:
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


def _certificate(service: str, host: str, port: int, ca_file: Path | None) -> Finding:
    what = f"TLS, {service}"
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    try:
        with (
            socket.create_connection((host, port), CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as connection,
        ):
            ends = ssl.cert_time_to_seconds(str((connection.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        return Finding(FAILURE, what, f"{host}: {error.verify_message}", "keystone.ca_file, or the clock")
    except (OSError, KeyError, ValueError):
        return Finding(FAILURE, what, f"{host}: no TLS there", "its operator")
    left = ends - time.time()
    words = f"{host}: its certificate ends in {span(left)}"
    return Finding(OK if left > SOON_S else WARNING, what, words, "" if left > SOON_S else "its operator")
