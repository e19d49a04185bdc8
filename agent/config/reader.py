"""One TOML file to the dataclasses of agent/config/model.py; packaging/agent.toml shows every key.

:func:`load` finds every mistake in one run and tells file and key, never a value. Durations are floats in
seconds here and strings with a unit in the file. Nothing here is a secret: the file names where the
credential's secret part is.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, Final

from agent.config import addresses
from agent.config.beacon import beacon
from agent.config.grants import grants
from agent.config.model import (
    AppDoor,
    Budget,
    Config,
    Container,
    ControlDoor,
    CredentialSource,
    FetchSettings,
    Keystone,
    Limits,
    Log,
    Method,
    RotationSettings,
    Staleness,
)
from agent.config.proxy import proxy
from agent.core import schedule
from agent.core.budget import MAX_MONTH_S, MAX_S
from common.addresses import parse as parse_address
from common.errors import ConfigurationError
from common.names import SecretName, parse_name, parse_version, parse_vps_id
from common.places import APP_SOCKET, CONTROL_SOCKET
from common.toml_table import Mistakes, Table, account

DEFAULT_PATH: Final = Path("/etc/vps-secrets-agent/agent.toml")
MAX_SOCKET_PATH: Final = 107
"""Bytes in sun_path, less its NUL (unix(7))."""

MAX_FILE: Final = 1024 * 1024
"""Bytes of a configuration; the example, with every key, has 6,000."""

_MODE: Final = re.compile(r"0?[0-7]{3}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


NOT_WATCH: Final = frozenset({"app", "control", "grant", "rotation", "staleness", "budget", "log"})
"""Tables of which the fetch program needs nothing."""
NOT_FETCH: Final = NOT_WATCH | {"beacon"}
"""The same for a reading: a mistake in the beacon's table must not stop it."""


def load(path: Path, *, passing_over: frozenset[str] = frozenset()) -> Config:
    """Return the checked configuration.

    Mistakes in the tables ``passing_over`` are none to this caller, which gets defaults there: a typing error
    in a grant must not stop the reading of secrets while serve goes on with the configuration before it.

    Raises:
        ConfigurationError: the file can't be read, or anything in it is wrong; carries every mistake.
    """
    mistakes = Mistakes(path)
    config = _config(Table(_values(path, mistakes), "", mistakes), path)
    found = tuple(m for m in mistakes.found if re.split(r"[. ]", m.key)[0] not in passing_over)
    if found:
        raise ConfigurationError(found)
    return config


def _values(path: Path, mistakes: Mistakes) -> dict[str, Any]:
    """Return the parsed file. Its parser's message may quote the file, so only the place is told."""
    problem = ""
    try:
        content = _content(path)
        if content is not None:
            return tomllib.loads(content.decode("utf-8"))
        problem = f"is no plain file of at most {MAX_FILE} bytes"
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        problem = f"is not TOML, {place[1] if place else 'nested too deep'}"
    mistakes.add("(file)", problem)
    raise ConfigurationError(tuple(mistakes.found))


def _content(path: Path) -> bytes | None:
    """Return the file's bytes; None where it is no plain file, or too long.

    A reload reads it in the event loop: a FIFO that nobody writes must not stop the agent (O_NONBLOCK), nor a
    device that has no end take its memory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE + 1)
    finally:
        os.close(descriptor)
    return content if len(content) <= MAX_FILE else None


def _config(top: Table, path: Path) -> Config:
    vps_id = top.required("vps_id", parse_vps_id, 'must be the id of this VPS, such as "vps-prod-001"')
    container = _container(top)
    keystone = _keystone(top.table("keystone"))
    fetch = _fetch(top.table("fetch"))
    rotation = _rotation(top.table("rotation"), fetch)
    staleness = _staleness(top.table("staleness"), rotation)
    budget = _budget(top.table("budget"), rotation, staleness)
    app = _app(top.table("app"))
    control = _control(top.table("control"), app)
    log = _log(top.table("log"))
    rules = grants(top)
    seen = beacon(top.table("beacon"), keystone.ca_file, rotation.spread)
    top.finish()
    return Config(
        *(path, vps_id, container, keystone, fetch, rotation, staleness, budget, app, control, log, rules),
        seen,
    )


def _container(top: Table) -> Container:
    expected = "must be the container's reference, https://…/v1/containers/UUID, or its UUID"
    text = top.required("container", _container_text, expected)
    return Container(text[-36:], text if "/" in text else None)


def _container_text(text: str) -> str | None:
    """Return a container's reference, or its UUID, in its one form."""
    where, slash, uuid = text.removesuffix("/").rpartition("/")
    version = parse_version(uuid.lower())
    if version is None or not slash:
        return version
    address = parse_address(where)
    return f"{address}/{version}" if address and address.path.endswith("/v1/containers") else None


_METHOD_KEYS: Final = {
    Method.CLOUDS: ("cloud", "clouds_file"),
    Method.APPLICATION_CREDENTIAL: ("application_credential_id",),
    Method.PASSWORD: ("username", "user_domain", "project", "project_domain"),
}


def _keystone(table: Table) -> Keystone:
    method = _method(table)
    https = "must be an https:// URL without user or query (http:// only on loopback)"
    keystones = f"{https}, with its version /v3 or without any"
    keystone = Keystone(
        method=method,
        credential=_credential(table, method),
        auth_url=table.text("auth_url", addresses.keystone, keystones),
        application_credential_id=table.text("application_credential_id"),
        username=table.text("username"),
        user_domain=table.text("user_domain") or _only(method, Method.PASSWORD, "Default"),
        project=table.text("project"),
        project_domain=table.text("project_domain") or _only(method, Method.PASSWORD, "Default"),
        cloud=table.text("cloud"),
        clouds_file=table.path("clouds_file")
        or (Path("/etc/openstack/clouds.yaml") if method is Method.CLOUDS else None),
        region=table.text("region"),
        interface=table.choice("interface", "public", ("public", "internal", "admin")),
        ca_file=table.path("ca_file"),
        service_type=table.text("service_type") or "key-manager",
        endpoint_override=table.text(
            "endpoint_override", addresses.barbican, f"{https}, with its version /v1 or without any"
        ),
        proxy=proxy(table),
    )
    if method is Method.PASSWORD and not table.has("project"):
        table.add("project", "is missing; with username the project to log in to is needed")
    if method is Method.CLOUDS:
        if table.has("auth_url"):
            table.add("auth_url", "has no effect with cloud: the clouds file names the address")
    elif not table.has("auth_url"):
        table.add("auth_url", f"is missing; {keystones}")
    table.finish()
    return keystone


def _only(method: Method, wanted: Method, value: str) -> str | None:
    return value if method is wanted else None


def _method(table: Table) -> Method:
    """Return the one way to log in whose leading key is given."""
    given = [method for method, keys in _METHOD_KEYS.items() if table.has(keys[0])]
    if not given:
        table.add("", "needs application_credential_id, or username and project, or cloud")
        return Method.APPLICATION_CREDENTIAL
    for method, keys in _METHOD_KEYS.items():
        for key in keys:
            if method is not given[0] and table.has(key):
                table.add(key, f"can't be combined with {_METHOD_KEYS[given[0]][0]}: give one way to log in")
    return given[0]


def _credential(table: Table, method: Method) -> CredentialSource:
    given = [key for key in ("credential", "credential_file", "credential_fd") if table.has(key)]
    for key in given[1:]:
        table.add(key, f"can't be combined with {given[0]}")
    source = CredentialSource(
        name=table.text(
            "credential", parse_name, "must be the name of a credential that systemd loads for the unit"
        ),
        file=table.path("credential_file"),
        fd=table.integer("credential_fd", 3, 3, 1023) if "credential_fd" in given else None,
    )
    if not given and method is not Method.CLOUDS:
        return CredentialSource(name="keystone-credential")
    return source


def _fetch(table: Table) -> FetchSettings:
    settings = FetchSettings(
        socket=_socket(table, None),
        timeout=table.seconds("timeout", 30.0, 1.0, 600.0),
        connect_timeout=table.seconds("connect_timeout", 5.0, 0.1, 60.0),
        threads=table.integer("threads", 4, 1, 16),
        list_metadata=table.boolean("list_metadata", default=False),
        acknowledge=table.boolean("acknowledge", default=False),
        require_sealed=table.boolean("require_sealed", default=False),
        sealing_key_file=table.path("sealing_key_file"),
    )
    if settings.connect_timeout > settings.timeout:
        table.add("connect_timeout", "must not be longer than timeout, which bounds the whole cycle")
    table.finish()
    return settings


def _rotation(table: Table, fetch: FetchSettings) -> RotationSettings:
    fleet_size = table.integer("fleet_size", 100, 1, 1_000_000)
    calls = schedule.LISTED_CALLS if fetch.list_metadata else schedule.COLD_CALLS
    calls += schedule.ACKNOWLEDGE_CALLS if fetch.acknowledge else 0
    spread = schedule.fleet_spread(fleet_size, calls)
    settings = RotationSettings(
        fleet_size=fleet_size,
        spread=spread,
        start_jitter=table.seconds("start_jitter", spread, 0.0, 3600.0),
        poll_interval=table.seconds("poll_interval", 900.0, 1.0, 86400.0),
        previous_grace=table.seconds("previous_grace", 600.0, 0.0, 86400.0),
        backoff_base=table.seconds("backoff_base", 1.0, 0.1, 60.0),
        backoff_cap=table.seconds("backoff_cap", 600.0, 1.0, 3600.0),
    )
    if settings.backoff_cap < settings.backoff_base:
        table.add("backoff_cap", "must not be shorter than backoff_base")
    table.finish()
    return settings


def _staleness(table: Table, rotation: RotationSettings) -> Staleness:
    fresh_for = table.seconds("fresh_for", 2 * rotation.poll_interval, 1.0)
    if fresh_for <= rotation.poll_interval:
        table.add("fresh_for", "must be longer than rotation.poll_interval, or every value is stale")
    secrets_table = table.table("secrets")
    secrets: dict[SecretName, float | None] = {}
    for key in secrets_table.written():
        name = parse_name(key)
        if name is None:
            secrets_table.has(key)
            secrets_table.add(ascii(key), "is not a secret's name (written without the VPS id)")
        else:
            secrets[name] = secrets_table.seconds_or_never(key, None, fresh_for)
    settings = Staleness(
        fresh_for=fresh_for,
        revocation_grace=table.seconds("revocation_grace", 900.0, 0.0),
        max_stale=table.seconds_or_never("max_stale", None, fresh_for),
        after_max_stale=table.choice("after_max_stale", "fail-closed", ("fail-closed", "serve-stale")),
        secrets=secrets,
    )
    if table.has("after_max_stale") and settings.max_stale is None and not any(secrets.values()):
        table.add("after_max_stale", "has no effect without max_stale or [staleness.secrets]")
    secrets_table.finish()
    table.finish()
    return settings


def _budget(table: Table, rotation: RotationSettings, staleness: Staleness) -> Budget:
    limits = [limit for limit in (staleness.max_stale, *staleness.secrets.values()) if limit is not None]
    longest = max(rotation.poll_interval, min([MAX_S, *(limit / 2 for limit in limits)]))
    budget = Budget(
        calls_per_month=table.integer("calls_per_month", 0, 1, 100_000_000) or None,
        price_per_1000_calls=table.number("price_per_1000_calls", 0.01, 0.0, 1e6),
        price_per_secret_month=table.number("price_per_secret_month", 0.02, 0.0, 1e6),
        currency=table.text("currency", _currency, 'must be a code such as "EUR" (ISO 4217)') or "EUR",
        longest_interval=longest,
    )
    least = math.ceil(MAX_MONTH_S / longest)
    if budget.calls_per_month is not None and budget.calls_per_month < least:
        reason = "half of the shortest max_stale" if longest < MAX_S else "a day"
        table.add(
            "calls_per_month",
            f"must be at least {least}: polls are never further apart than {longest:g} s, {reason}",
        )
    table.finish()
    return budget


def _currency(text: str) -> str | None:
    return text if _CURRENCY.fullmatch(text) else None


def _limits(table: Table) -> Limits:
    connections = table.integer("connections", 1024, 1, 16384)
    limits = Limits(
        connections=connections,
        connections_per_uid=table.integer("connections_per_uid", max(1, connections // 2), 1, connections),
        header_bytes=table.integer("header_bytes", 16384, 1024, 65536),
        header_timeout=table.seconds("header_timeout", 5.0, 0.1, 60.0),
        idle_timeout=table.seconds("idle_timeout", 75.0, 0.1, 3600.0),
        requests_per_second=table.number("requests_per_second", 0.0, 0.0, 1e6),
        watch_timeout=table.seconds("watch_timeout", 300.0, 1.0, 3600.0),
    )
    table.finish()
    return limits


def _app(table: Table) -> AppDoor:
    mode = table.text("mode", lambda text: text if _MODE.fullmatch(text) else None, 'must be as "0660"')
    door = AppDoor(
        socket=_socket(table, Path(APP_SOCKET)) or Path(APP_SOCKET),
        group=table.text("group", account, "must be the name of a group"),
        mode=int(mode or "0660", 8),
        limits=_limits(table.table("limits")),
    )
    table.finish()
    return door


def _control(table: Table, app: AppDoor) -> ControlDoor:
    door = ControlDoor(
        socket=_socket(table, Path(CONTROL_SOCKET)) or Path(CONTROL_SOCKET),
        admin_group=table.text("admin_group", account, "must be the name of a group") or "vps-secrets-admin",
        limits=_limits(table.table("limits")),
    )
    if door.socket == app.socket:
        table.add("socket", "must differ from app.socket")
    table.finish()
    return door


def _socket(table: Table, default: Path | None) -> Path | None:
    path = table.path("socket") or default
    if path is not None and len(bytes(path)) > MAX_SOCKET_PATH:
        table.add("socket", f"must be at most {MAX_SOCKET_PATH} bytes long (unix(7))")
    return path


def _log(table: Table) -> Log:
    log = Log(table.choice("level", "info", ("debug", "info", "warning", "error")))
    table.finish()
    return log
