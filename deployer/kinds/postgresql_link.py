"""Connections to PostgreSQL, and what went wrong with one in words of ours.

What the server or libpq say is never passed on: it may quote a statement. Whatever decides where a connection
goes, and as whom, is given: libpq takes none of it from its environment or its files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from deployer.kinds.kind import KindError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    import psycopg2
    from psycopg2.extensions import connection, cursor

T = TypeVar("T")

REQUIRES_AUTH: Final = 160000
"""From this version on libpq can insist on SCRAM, so that no server is ever sent a password.

An older one (Debian 12's) insists on channel binding, which only SCRAM has: over TLS that is the same. On a
Unix socket of the same machine it can't.
"""
STATEMENT_MS: Final = 10_000
# What libpq says when there is no connection → what we say, and whether a person has to change something.
_REFUSALS: Final = (
    ("password authentication failed", "the password was refused", False),
    ("is not permitted to log in", "the role may not log in", True),
    ("pg_hba.conf rejects", "pg_hba.conf rejects this role", True),
    ("no pg_hba.conf entry", "pg_hba.conf has no line for this role and database", True),
    ("does not exist", "the role or the database does not exist", True),
    ("too many connections", "the server has no connection left", False),
    ("too many clients", "the server has no connection left", False),
    ("remaining connection slots", "the server has no connection left", False),
    ("starting up", "the server is starting", False),
    ("shutting down", "the server is shutting down", False),
    ("certificate verify failed", "the server's certificate is not of ca_file", True),
    ("does not match host name", "the server's certificate has another name", True),
    ("does not support SSL", "the server has no TLS", True),
    ("channel binding required", "the server does not ask by scram-sha-256", True),
    ("did not complete authentication", "the server lets the role in without its password", True),
    ("authentication method requirement", "the server asks for the password itself; use scram-sha-256", True),
    ("could not translate host name", "its name is unknown", False),
    ("timeout expired", "it does not answer", False),
    ("Connection refused", "nothing listens there", False),
    ("No such file or directory", "nothing listens there", False),
    ("Permission denied", "this program's user may not reach its socket", True),
    ("read-only", "it is read-only: a standby", False),
)
# SQLSTATE → the same, of a statement.
_STATES: Final = {
    "42501": ("refused: the role lacks a right, or is not on the list rotation.managed", True),
    "42883": ("the functions of the rotation are missing: run the SQL of the setup", True),
    "3F000": ("the schema rotation is missing: run the SQL of the setup", True),
    "42P01": ("the table rotation.managed is missing: run the SQL of the setup", True),
    "22023": ("the server's functions take no such verifier or label: run the SQL of the setup again", True),
    "57014": ("it took too long", False),
    "55P03": ("the role is locked by another transaction", False),
    "25006": ("it is read-only: a standby", False),
    "XX000": ("another transaction has changed the role at the same time", False),
}


@dataclass(frozen=True, slots=True)
class Server:
    """A server, as deployer.toml names it. ``host`` may be the folder of a Unix socket.

    ``password`` reads the worker's own, whenever it is needed; it may raise VpsSecretsError.
    """

    name: str
    host: str
    port: int
    database: str
    user: str
    password: Callable[[], bytes]
    ca_file: Path | None = None
    connect_timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in where. A dataclass, so that nothing that shows a call's arguments shows the password."""

    role: str
    password: str = field(repr=False)
    database: str


def ask(server: Server, step: str, login: Login, work: Callable[[connection, cursor], T]) -> T:
    """Return what ``work`` does with a connection: each statement is a transaction of its own.

    ``work`` may raise :class:`KindError`.

    Raises:
        KindError: there is no connection, or a statement failed; in words of ours.
    """
    link: connection | None = None
    psycopg2 = _driver(step)
    try:
        link = psycopg2.connect(**_parameters(server, login, psycopg2.extensions.libpq_version()))
        link.autocommit = True
        with link.cursor() as found:
            return work(link, found)
    except psycopg2.Error as error:
        problem, permanent = _refusal(str(error)) if link is None else _statement(error)
    finally:
        if link is not None:
            link.close()
    # here, not in the handler: there our error would hold the server's words
    what = f"PostgreSQL {server.name}, database {login.database}, as {login.role}"
    raise KindError(step, f"{what}: {problem}", permanent=permanent)


def _driver(step: str) -> ModuleType:
    """Return psycopg2: only a site with this kind has to install it.

    Raises:
        KindError: it is not there.
    """
    try:
        import psycopg2  # noqa: PLC0415
        import psycopg2.extensions  # noqa: PLC0415
    except ImportError:
        pass
    else:
        return psycopg2
    missing = "the kind postgresql needs the package python3-psycopg2, which is missing: install it, "
    raise KindError(step, f"{missing}then restart the worker", permanent=True)


def _parameters(server: Server, login: Login, libpq: int) -> dict[str, Any]:
    parameters = {
        "host": server.host,
        "hostaddr": "",
        "port": server.port,
        "user": login.role,
        "password": login.password,
        "dbname": login.database,
        "connect_timeout": max(2, round(server.connect_timeout)),  # libpq takes less for two
        "application_name": "vps-secrets-deployer",
        "client_encoding": "UTF8",
        "target_session_attrs": "read-write",
        "gssencmode": "disable",
        "passfile": "/dev/null",
        "tcp_user_timeout": STATEMENT_MS,
        "options": f"-c statement_timeout={STATEMENT_MS} -c lock_timeout={STATEMENT_MS // 2}",
        "sslmode": "disable" if server.host.startswith("/") else "verify-full",
    }
    if server.ca_file is not None:
        parameters["sslrootcert"] = str(server.ca_file)
    if libpq >= REQUIRES_AUTH:
        parameters["require_auth"] = "scram-sha-256"
    elif not server.host.startswith("/"):
        parameters["channel_binding"] = "require"
    return parameters


def _refusal(said: str) -> tuple[str, bool]:
    """Return why there is no connection, in words of ours, and whether a person has to change something."""
    return next(
        ((words, permanent) for mark, words, permanent in _REFUSALS if mark in said),
        ("there is no connection", False),
    )


def _statement(error: psycopg2.Error) -> tuple[str, bool]:
    """Return the same of a statement that failed."""
    state = error.pgcode or ""
    return _STATES.get(
        state, (f"the connection ended, or a statement failed (SQLSTATE {state or 'none'})", False)
    )
