"""One TOML file to the dataclasses of deployer/config/model.py; packaging/deployer.toml shows every key.

:func:`load` finds every mistake in one run and tells file and key, never a value. Nothing in the file is a
secret: it names where each credential is.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from common.errors import ConfigurationError
from common.toml_table import Mistakes, Table, account, url
from deployer.config import doors, parts, targets
from deployer.config.model import Config, Keystone, Registrar, Worker

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_PATH: Final = Path("/etc/vps-secrets-deployer/deployer.toml")
EXAMPLE: Final = Path("/usr/share/vps-secrets-deployer/deployer.toml")
DATABASE: Final = "sqlite:////var/lib/vps-secrets-deployer/deployer.db"
KEEP_HISTORY_S: Final = 730 * 86400.0
LEAST_HISTORY_S: Final = 366 * 86400.0
"""A trigger keeps history for a year, by the database's own clock."""
MOST_HISTORY_S: Final = 36500 * 86400.0
RUN: Final = Path("/run/vps-secrets-deployer")
SIGNING_KEY: Final = Path("/var/lib/vps-secrets-deployer-backup/signing-key")
POOL_STATE: Final = Path("/var/lib/vps-secrets-deployer-registrar/pool.jsonl")

_DATABASE_URL: Final = re.compile(r"sqlite:////[^?#]+|postgresql(?:\+psycopg2)?://[^?#]*(\?[^#]*)?")
_PASSWORD: Final = re.compile(r"://[^/@]*:[^/@]*@|[?&](?:password|sslpassword)=", re.IGNORECASE)


def load(path: Path) -> Config:
    """Return the checked configuration.

    Raises:
        ConfigurationError: the file can't be read, or anything in it is wrong; carries every mistake.
    """
    mistakes = Mistakes(path)
    config = _config(Table(_values(path, mistakes), "", mistakes), path)
    if mistakes.found:
        raise ConfigurationError(tuple(mistakes.found))
    return config


def _values(path: Path, mistakes: Mistakes) -> dict[str, Any]:
    """Return the parsed file. Its parser's message may quote the file, so only the place is told."""
    problem = ""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        problem = f"can't be read: {error.strerror}"
        if path == DEFAULT_PATH and not path.exists():
            problem += f"; begin with a copy of {EXAMPLE}"
    except UnicodeDecodeError:
        problem = "is not UTF-8 text"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r"\(at (line \d+, column \d+|end of document)\)", str(error))
        problem = f"is not TOML, {place[1] if place else 'nested too deep'}"
    mistakes.add("(file)", problem)
    raise ConfigurationError(tuple(mistakes.found))


def _config(top: Table, path: Path) -> Config:
    database, keep_history = _database(top.table("database"))
    blueprints = top.table("blueprints")
    folder = blueprints.path("folder") or path.parent / "blueprints"
    blueprints.finish()
    cloud = top.table("cloud")
    cloud_file = cloud.path("file")
    cloud.finish()
    signing = top.table("signing")
    signing_key = signing.path("key_file") or SIGNING_KEY
    signing.finish()
    log = top.table("log")
    level = log.choice("level", "info", ("debug", "info", "warning", "error"))
    log.finish()
    sealing = top.table("sealing")
    sealing_word = sealing.choice("default", "required", ("required", "off"))
    sealing.finish()
    api = doors.api(top.table("api"), top)
    keystone = _keystone(top.table("keystone")) if top.has("keystone") else None
    worker = _worker(top.table("worker"))
    registrar = _registrar(top.table("registrar"))
    hooks = top.table("hook")
    hook = parts.socket(hooks, worker.socket.path.with_name("hook.sock"))
    hooks.finish()
    paths = [("api", api.socket.path), ("worker", worker.socket.path), ("registrar", registrar.socket.path)]
    paths.append(("hook", hook.path))
    for at, (name, socket) in enumerate(paths):
        for other, earlier in paths[:at]:
            if socket == earlier:
                top.add(f"{name}.socket", f"must differ from {other}.socket")
    config = Config(
        path=path,
        database=database,
        keep_history=keep_history,
        blueprints=folder,
        cloud=cloud_file,
        api=api,
        keystone=keystone,
        worker=worker,
        registrar=registrar,
        postgresql=targets.servers(top),
        commands=targets.commands(top),
        hook=hook,
        backups=targets.backups(top),
        signing_key=signing_key,
        beacon=targets.beacon(top.table("beacon")) if top.has("beacon") else None,
        sealing=sealing_word,
        log_level=level,
    )
    top.finish()
    return config


def _database(table: Table) -> tuple[str, float]:
    expected = (
        'must be as "sqlite:////path/of/the/file" or "postgresql+psycopg2:///name?host=/run/postgresql"'
    )
    found = table.text("url", lambda text: text if _DATABASE_URL.fullmatch(text) else None, expected)
    if found and _PASSWORD.search(found):
        table.add(
            "url",
            "must hold no password; log in as a Unix user (peer), by certificate, or with a passfile (libpq)",
        )
        found = None
    keep = table.seconds("keep_history", KEEP_HISTORY_S, LEAST_HISTORY_S, MOST_HISTORY_S)
    table.finish()
    return found or DATABASE, keep


def _keystone(table: Table) -> Keystone:
    https = "must be an https:// URL without user or query (http:// only on loopback)"
    keystone = Keystone(
        auth_url=table.required(
            "auth_url", _versioned("/v3"), f"{https}, with its version /v3 or without any"
        ),
        region=table.text("region"),
        interface=table.choice("interface", "public", ("public", "internal", "admin")),
        ca_file=table.path("ca_file"),
        service_type=table.text("service_type") or "key-manager",
        endpoint_override=table.text("endpoint_override", url, https),
        timeout=table.seconds("timeout", 30.0, 1.0, 600.0),
    )
    table.finish()
    return keystone


def _versioned(version: str) -> Callable[[str], str | None]:
    def parse(text: str) -> str | None:
        address = url(text)
        return address and address.rstrip("/").removesuffix(version) + version

    return parse


def _worker(table: Table) -> Worker:
    worker = Worker(
        socket=parts.socket(table, RUN / "worker.sock"),
        application_credential_id=table.text("application_credential_id") or "",
        credential=parts.credential(table, "barbican-credential"),
        concurrency=table.integer("concurrency", 2, 1, 64),
        interval=table.seconds("interval", 3600.0, 1.0, 86400.0),
        sweep=table.seconds("sweep", 60.0, 0.1, 3600.0),
        lease=table.seconds("lease", 120.0, 5.0, 3600.0),
        calls_per_second=table.number("calls_per_second", 10.0, 0.1, 10_000.0),
        burst=table.integer("burst", 50, 1, 100_000),
        emergency_deadline=table.seconds("emergency_deadline", 300.0, 10.0, 3600.0),
    )
    table.finish()
    return worker


def _registrar(table: Table) -> Registrar:
    pooled = table.has("pool") or table.has("pool_file")
    registrar = Registrar(
        socket=parts.socket(table, RUN / "registrar.sock"),
        username=table.text("username") or "recruitiq-vps-accounts",
        user_domain=table.text("user_domain") or "Default",
        domain=table.text("domain") or "recruitiq-vps",
        project=table.text("project") or "vps-runtime",
        credential=parts.credential(table, "registrar-password"),
        key=parts.credential(table, "registrar-key", "key"),
        api_user=table.text("api_user", account, "must be the name of a user"),
        worker_user=table.text("worker_user", account, "must be the name of a user"),
        pool=parts.credential(table, None, "pool") if pooled else None,
        pool_state=table.path("pool_state") or POOL_STATE,
    )
    for key in ("username", "user_domain", "domain", "credential", "credential_file"):
        if pooled and table.has(key):
            table.add(key, "has no effect with a pool, which needs no account of the registrar's own")
    if table.has("pool_state") and not pooled:
        table.add("pool_state", "has no effect without pool")
    table.finish()
    return registrar
