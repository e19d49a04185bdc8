"""[api], [api.limits], [api.tls] and [[role]] of deployer.toml: who reaches the API, and may do what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from common.toml_table import account
from deployer.config import parts
from deployer.config.model import Api, Limits, Role, RoleRule, Tls

if TYPE_CHECKING:
    from common.toml_table import Table

SOCKET: Final = Path("/run/vps-secrets-deployer/api.sock")
HOSTS: Final = ("localhost",)
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,252})")
_ADDRESS: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})")
_SUBJECT: Final = re.compile(r"(?:CN|OU)=[^=,\x00-\x1f]{1,64}")
_MOST_PORT: Final = 65535


def api(table: Table, top: Table) -> Api:
    """Return the API's doors and, of ``top``, its roles."""
    expected = "must be names of the Host header in lower case, without ports"
    hosts = table.texts("hosts", _host, expected) if table.has("hosts") else ()
    tls = _tls(table.table("tls")) if table.has("tls") else None
    found = Api(
        socket=parts.socket(table, SOCKET),
        hosts=(*HOSTS, *(host for host in hosts if host not in HOSTS)),
        limits=_limits(table.table("limits")),
        tls=tls,
        roles=_roles(top, tls),
    )
    table.finish()
    return found


def _limits(table: Table) -> Limits:
    default = Limits()
    connections = table.integer("connections", default.connections, 1, 16384)
    limits = Limits(
        connections=connections,
        connections_per_caller=table.integer("connections_per_caller", -(-connections // 2), 1, connections),
        body_bytes=table.integer("body_bytes", default.body_bytes, 1024, 1_048_576),
        header_bytes=table.integer("header_bytes", default.header_bytes, 1024, 65536),
        request_timeout=table.seconds("request_timeout", default.request_timeout, 0.1, 300.0),
        idle_timeout=table.seconds("idle_timeout", default.idle_timeout, 0.1, 3600.0),
        event_streams=table.integer("event_streams", default.event_streams, 1, 4096),
    )
    table.finish()
    return limits


def _tls(table: Table) -> Tls:
    address = table.required("address", _address, 'must be as "192.0.2.10:8443" or "[2001:db8::1]:8443"')
    host, _, port = address.rpartition(":")
    for key in ("certificate", "client_ca"):
        if not table.has(key):
            table.add(key, "is missing; TLS needs the server's certificate, its key, and the clients' CA")
    tls = Tls(
        host=host.strip("[]"),
        port=int(port or "0"),
        certificate=table.path("certificate") or Path("/"),
        key=parts.credential(table, "api-tls-key", "key"),
        client_ca=table.path("client_ca") or Path("/"),
    )
    table.finish()
    return tls


def _roles(top: Table, tls: Tls | None) -> tuple[RoleRule, ...]:
    rules = []
    for table in top.tables("role"):
        word = table.required("role", _role, f"must be one of {', '.join(r.name.lower() for r in Role)}")
        rule = RoleRule(
            role=Role[word.upper()] if word else Role.VIEWER,
            group=table.text("group", account, "must be the name of a group"),
            user=table.text("user", account, "must be the name of a user"),
            certificate=table.text(
                "certificate",
                _subject,
                'must be as "CN=portal" or "OU=operators", of the certificate\'s subject',
            ),
        )
        given = [key for key in ("group", "user", "certificate") if table.has(key)]
        if len(given) != 1:
            table.add("", "needs exactly one of group, user and certificate")
        if rule.certificate and tls is None:
            table.add("certificate", "has no effect without [api.tls]")
        if rule in rules:
            table.add("", "says the same as one before it")
        table.finish()
        rules.append(rule)
    return tuple(rules)


def _role(text: str) -> str | None:
    return text if text.upper() in Role.__members__ and text.islower() else None


def _host(text: str) -> str | None:
    return text if _HOST.fullmatch(text) else None


def _subject(text: str) -> str | None:
    return text if _SUBJECT.fullmatch(text) else None


def _address(text: str) -> str | None:
    match = _ADDRESS.fullmatch(text)
    return text if match and 0 < int(match[3]) <= _MOST_PORT else None
