"""The kind ``postgresql``: two log-in roles in turn; the idle one gets the new password.

The role in use is never touched, so whatever is lost on the way is made anew. The server gets a verifier that
is computed here; with it, in one transaction, the role's label: which secret has its password. The worker's
own role can execute the functions of postgresql_setup.py and nothing else.
"""

from __future__ import annotations

import base64
import re
import secrets
import time
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, TypeVar

from common.errors import VpsSecretsError
from common.names import parse_version
from deployer.core.options import MAX_ROLE, PostgresqlOptions, filled
from deployer.kinds import scram
from deployer.kinds.kind import KindError
from deployer.kinds.postgresql_link import Login, Server, ask
from deployer.kinds.postgresql_setup import FUNCTIONS
from deployer.kinds.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from psycopg2.extensions import connection, cursor

    from deployer.core.blueprint import SecretSpec
    from deployer.kinds.kind import Facts

T = TypeVar("T")

PASSWORD_BYTES: Final = 32
TEST_S: Final = 20.0
"""How long a new password may need until every part of the server takes it."""
END_S: Final = 20.0
PAUSE_S: Final = 0.2
_PASSWORD: Final = rb"([A-Za-z0-9_-]{43})"
_ROLE: Final = """\
SELECT r.rolname, r.rolcanlogin, shobj_description(r.oid, 'pg_authid'),
       EXISTS (SELECT FROM rotation.managed AS m WHERE m.role = r.rolname),
       (SELECT string_agg(DISTINCT substr(setting, 6), ' ')
        FROM pg_db_role_setting AS s, unnest(s.setconfig) AS setting
        WHERE s.setrole = r.oid AND setting LIKE 'role=%%'),
       ARRAY(SELECT g.rolname::text FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
             WHERE m.member = r.oid)
FROM pg_roles AS r WHERE r.rolname IN %s"""
_RIGHTS: Final = """\
SELECT r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls,
       (SELECT count(*) FROM unnest(%s) AS f WHERE has_function_privilege(to_regprocedure(f), 'EXECUTE'))
FROM pg_roles AS r WHERE r.rolname = current_user"""


class _Row(NamedTuple):
    """A role of the application. ``becomes``: what it sets its role to when it logs in."""

    can_log_in: bool
    label: str | None
    managed: bool
    becomes: str | None
    member_of: list[str]


class Postgresql:
    """Servers by the names that blueprints use. ``clock`` and ``sleep`` are time's own, or a test's."""

    name = "postgresql"

    def __init__(
        self,
        servers: Mapping[str, Server],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._servers = servers
        self._clock = clock
        self._sleep = sleep

    def slots(self, spec: SecretSpec) -> tuple[str, ...]:
        """Return the two roles, as the blueprint writes them."""
        return spec.slots

    def preflight(self, facts: Facts) -> None:
        """Look at the rights of the worker's role, at both roles of the application, and at the labels."""
        role = self._role(facts, "preflight")

        def look(_: connection, cursor: cursor) -> tuple[bool, int, dict[str, _Row]]:
            cursor.execute(_RIGHTS, (list(FUNCTIONS),))
            too_many, executable = cursor.fetchone() or (True, 0)
            return too_many, executable, _look(facts, cursor)

        too_many, executable, found = self._as_rotator(facts, "preflight", look)
        if too_many:
            _refuse("preflight", "the worker's role has more rights than it needs (SUPERUSER, CREATEROLE…)")
        if executable < len(FUNCTIONS):
            _refuse("preflight", "the worker's role can't execute the functions: run the SQL of the setup")
        for one in _roles(facts):
            if one not in found:
                _refuse("preflight", f"the role {one} does not exist: run the SQL of the setup")
            _check_role(facts, one, found[one])
        if len({found[one].becomes for one in _roles(facts)}) != 1:
            _refuse("preflight", "the two roles become different owners (ALTER ROLE … SET role)")
        _check_idle(facts, "preflight", role, found)

    def make(self, facts: Facts) -> Value:
        """Fill the template with a new password of 256 random bits, which no URL has to escape."""
        drawn = base64.urlsafe_b64encode(secrets.token_bytes(PASSWORD_BYTES)).rstrip(b"=")
        text = self._filled(facts, "make")
        return Value(text.encode().replace(b"{password}", drawn))

    def apply(self, facts: Facts, value: Value) -> None:
        """Give the idle role the verifier and its label."""
        role = self._role(facts, "apply")
        verifier = scram.verifier(self._password(facts, value, "apply"))
        label = _label(facts, facts.version)

        def give(_: connection, cursor: cursor) -> None:
            _check_idle(facts, "apply", role, _look(facts, cursor))
            cursor.execute("SELECT rotation.set_verifier(%s::name, %s, %s)", (role, verifier, label))

        self._as_rotator(facts, "apply", give)

    def test(self, facts: Facts, value: Value) -> None:
        """Log in with the new password, as the application will, until it works or the time is over."""
        end = self._clock() + TEST_S
        while True:
            try:
                self._log_in(facts, value)
            except KindError as error:
                if error.permanent or self._clock() >= end:
                    raise
            else:
                return
            self._sleep(PAUSE_S)

    def retire(self, facts: Facts) -> None:
        """End the password of a former version, unless its role has another one by now. Sessions stay."""
        role = self._role(facts, "retire")
        label = _label(facts, facts.version)
        self._as_rotator(
            facts,
            "retire",
            lambda _, cursor: cursor.execute("SELECT rotation.clear_password(%s::name, %s)", (role, label)),
        )

    def lock(self, facts: Facts) -> None:
        """Let neither role log in, then end their sessions until there are none."""
        roles, label = _roles(facts), _label(facts, None)

        def lock(_: connection, cursor: cursor) -> None:
            for role in roles:
                cursor.execute("SELECT rotation.lock_role(%s::name, %s)", (role, label))
            end = self._clock() + END_S
            while sum(_ended(cursor, role) for role in roles):
                if self._clock() >= end:
                    raise KindError("lock", f"sessions of {' and '.join(roles)} do not end")
                self._sleep(PAUSE_S)

        self._as_rotator(facts, "lock", lock)

    def public(self, facts: Facts, value: Value) -> str | None:  # noqa: ARG002  # as Kind has it
        """Nothing of it may be known."""
        return None

    def _log_in(self, facts: Facts, value: Value) -> None:
        options, role = facts.options(PostgresqlOptions), self._role(facts, "test")
        server = self._server(facts, "test")
        password = bytes(self._password(facts, value, "test")).decode()
        database = filled(options.database or server.database, facts.vps_id)

        def who(link: connection, cursor: cursor) -> tuple[str, str, bool]:
            cursor.execute("SELECT session_user, current_user")
            session, current = cursor.fetchone() or ("", "")
            return session, current, link.info.used_password

        session, current, asked = ask(server, "test", Login(role, password, database), who)
        if not asked:
            _refuse("test", f"the server lets {role} in without its password (pg_hba.conf)")
        if session != role or current == role:
            _refuse("test", f"{role} does not become the owner when it logs in (ALTER ROLE … SET role)")

    def _as_rotator(self, facts: Facts, step: str, work: Callable[[connection, cursor], T]) -> T:
        server, problem, password = self._server(facts, step), "", ""
        try:
            password = server.password().decode()
        except VpsSecretsError as error:
            problem = str(error)
        except UnicodeDecodeError:
            problem = "it is no text"
        if problem:
            _refuse(step, f"the password of {server.user} at {server.name}: {problem}")
        return ask(server, step, Login(server.user, password, server.database), work)

    def _server(self, facts: Facts, step: str) -> Server:
        name = facts.options(PostgresqlOptions).server
        if name not in self._servers:
            _refuse(step, f"deployer.toml has no [[postgresql]] named {name}")
        return self._servers[name]

    def _role(self, facts: Facts, step: str) -> str:
        """Return the role that the slot names."""
        role = filled(facts.slot, facts.vps_id)
        if role not in _roles(facts):
            _refuse(step, "the slot is none of the two roles of the blueprint")
        for one in _roles(facts):
            if len(one) > MAX_ROLE:
                _refuse(step, f"the role {one} is longer than PostgreSQL's {MAX_ROLE} characters")
        return role

    def _filled(self, facts: Facts, step: str) -> str:
        """Return the template with everything but the password, which stays as ``{password}``."""
        options, server = facts.options(PostgresqlOptions), self._server(facts, step)
        fields = {
            "role": self._role(facts, step),
            "host": server.host,
            "port": str(server.port),
            "database": filled(options.database or server.database, facts.vps_id),
            "vps": facts.vps_id,
        }
        return re.sub(r"\{(\w+)\}", lambda found: fields.get(found[1], found[0]), options.template)

    def _password(self, facts: Facts, value: Value, step: str) -> memoryview:
        """Return the password inside a value that was made from the template."""
        parts = self._filled(facts, step).encode().split(b"{password}")
        pattern = re.escape(parts[0]) + _PASSWORD + rb"\1".join(map(re.escape, parts[1:]))
        content = value.reveal()
        found = re.fullmatch(pattern, content)
        if found is None:
            _refuse(step, "the value does not fit the template of the blueprint")
        return content[slice(*found.span(1))]


def _roles(facts: Facts) -> tuple[str, ...]:
    return tuple(filled(role, facts.vps_id) for role in facts.options(PostgresqlOptions).roles)


def _label(facts: Facts, version: str | None) -> str:
    """Return a role's label: which secret has its password, or that it is locked."""
    return f"{f'secret {version}' if version else 'locked'} of {facts.vps_id}/{facts.name}"


def _look(facts: Facts, cursor: cursor) -> dict[str, _Row]:
    """Return what the server knows of the two roles."""
    cursor.execute(_ROLE, (_roles(facts),))
    return {name: _Row(*row) for name, *row in cursor.fetchall()}


def _check_role(facts: Facts, role: str, row: _Row) -> None:
    """Refuse a role that is not ready for two in turn, or that something else uses."""
    if not row.managed:
        _refuse("preflight", f"the role {role} is not on the list: run the SQL of the setup")
    if row.label and not row.label.endswith(f" of {facts.vps_id}/{facts.name}"):
        _refuse("preflight", f"the role {role} has a comment that is not ours: another secret may use it")
    if not row.can_log_in and row.label != _label(facts, None):
        _refuse("preflight", f"the role {role} may not log in, and not by our doing")
    if not row.becomes or row.becomes not in row.member_of:
        _refuse("preflight", f"the role {role} does not become an owner (GRANT, ALTER ROLE … SET role)")


def _check_idle(facts: Facts, step: str, role: str, found: Mapping[str, _Row]) -> None:
    """Refuse to touch a role that is in use: one whose label names a secret that is listed."""
    version = parse_version(((found[role].label if role in found else "") or "")[7:43])
    if version is not None and version in facts.listed and version != facts.version:
        _refuse(step, f"the role {role} is in use: its password is in a secret that is listed")


def _ended(cursor: cursor, role: str) -> int:
    """End a role's sessions; return how many there were."""
    cursor.execute("SELECT rotation.end_sessions(%s::name)", (role,))
    (count,) = cursor.fetchone() or (0,)
    return int(count)


def _refuse(step: str, reason: str) -> NoReturn:
    raise KindError(step, reason, permanent=True)
