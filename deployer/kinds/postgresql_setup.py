"""The SQL that an administrator of PostgreSQL runs once: roles, and the functions that the rotation may call.

The worker's role can execute four functions and nothing else. They belong to a role that nobody can log in as
(SECURITY DEFINER), take only the roles that a table lists, only verifiers and never a password, and change
password and label of a role in one transaction. The worker itself has no CREATEROLE: up to PostgreSQL 15
whoever has that can become superuser. The same text is right on 15 and later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deployer.core.options import filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deployer.core.options import PostgresqlOptions

SCHEMA: Final = "rotation"
DEFINER: Final = "rotation_definer"
FUNCTIONS: Final = (
    "rotation.set_verifier(name, text, text)",
    "rotation.clear_password(name, text)",
    "rotation.lock_role(name, text)",
    "rotation.end_sessions(name)",
)
UUID: Final = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
LABEL: Final = f"^(secret {UUID}|locked) of [A-Za-z0-9._-]{{1,64}}/[A-Za-z0-9._-]{{1,200}}$"
"""A role's comment: which secret of Barbican has its password."""
VERIFIER: Final = r"^SCRAM-SHA-256\$[0-9]{4,7}:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$"

_HEAD: Final = """\
-- For the worker of vps-secrets-deployer; run as superuser in the database {database}. May be run again.
BEGIN;

-- Owns the functions. Nobody can log in as it, and nobody is a member of it.
{definer}
ALTER ROLE {DEFINER} NOLOGIN INHERIT CREATEROLE;
GRANT pg_signal_backend TO {DEFINER};

-- The worker logs in as this one: \\password {rotator}
{rotator_role}
ALTER ROLE {rotator} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;
"""
_FUNCTIONS: Final = """\

CREATE SCHEMA IF NOT EXISTS {SCHEMA};
REVOKE ALL ON SCHEMA {SCHEMA} FROM PUBLIC;
GRANT USAGE ON SCHEMA {SCHEMA} TO {rotator}, {DEFINER};
CREATE TABLE IF NOT EXISTS {SCHEMA}.managed (role name PRIMARY KEY);
REVOKE ALL ON {SCHEMA}.managed FROM PUBLIC;
GRANT SELECT ON {SCHEMA}.managed TO {rotator}, {DEFINER};

-- Raises an error unless the role is on the list and has no more rights than a log-in.
CREATE OR REPLACE FUNCTION {SCHEMA}.check_role(which name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM {SCHEMA}.managed AS m WHERE m.role = which) THEN
        RAISE insufficient_privilege USING MESSAGE = 'not a role of the application';
    END IF;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = which
               AND (r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls)) THEN
        RAISE insufficient_privilege USING MESSAGE = 'a role with more rights than a log-in';
    END IF;
END $body$;

-- Password and label together, or neither. The label says which secret has the password.
CREATE OR REPLACE FUNCTION {SCHEMA}.set_verifier(which name, verifier text, label text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM {SCHEMA}.check_role(which);
    IF verifier IS NULL OR verifier !~ '{VERIFIER}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a SCRAM verifier';
    END IF;
    IF label IS NULL OR label !~ '{LABEL}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a label';
    END IF;
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', which, verifier);
    EXECUTE format('COMMENT ON ROLE %I IS %L', which, label);
END $body$;

-- Ends a former password, if it is still the one of this label. Who is logged in stays.
CREATE OR REPLACE FUNCTION {SCHEMA}.clear_password(which name, label text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM {SCHEMA}.check_role(which);
    IF shobj_description(to_regrole(quote_ident(which)), 'pg_authid') IS DISTINCT FROM label THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I PASSWORD NULL', which);
    RETURN true;
END $body$;

-- Emergency: nobody logs in any more. Sessions end by end_sessions, after this is committed.
CREATE OR REPLACE FUNCTION {SCHEMA}.lock_role(which name, label text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM {SCHEMA}.check_role(which);
    IF label IS NULL OR label !~ '{LABEL}' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a label';
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', which);
    EXECUTE format('COMMENT ON ROLE %I IS %L', which, label);
END $body$;

-- Returns how many sessions of the role there were.
CREATE OR REPLACE FUNCTION {SCHEMA}.end_sessions(which name) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM {SCHEMA}.check_role(which);
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity AS a WHERE a.usename = which);
END $body$;
"""
_OWNERSHIP: Final = """\
ALTER FUNCTION {function} OWNER TO {DEFINER};
REVOKE ALL ON FUNCTION {function} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {function} TO {to};
"""
_ROLES: Final = """\

-- {comment}
{owner_role}
ALTER ROLE {owner} NOLOGIN;
{role_a}
{role_b}
GRANT {owner} TO {a}, {b};
-- Whatever either makes belongs to both: each log-in becomes the owner.
ALTER ROLE {a} SET role = {owner_text};
ALTER ROLE {b} SET role = {owner_text};
INSERT INTO {SCHEMA}.managed VALUES ({a_text}), ({b_text}) ON CONFLICT DO NOTHING;
DO $body$ BEGIN
    -- from 16 on, who alters a role needs the right to administer it as well
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE 'GRANT {a}, {b} TO {DEFINER} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE';
    END IF;
END $body$;
"""
_END: Final = """\

COMMIT;
"""


def setup_sql(
    options: PostgresqlOptions,
    *,
    database: str,
    rotator: str = "vps_rotator",
    owners: Mapping[str, str],
) -> str:
    """Return the SQL for the two roles of each VPS.

    ``owners``: VPS id → the role that owns what the application makes. Where the roles are the same for all
    VPSs, it has one VPS. Grants of the owner (on schemas, tables) are the application's own matter.
    """
    names = {"SCHEMA": SCHEMA, "DEFINER": DEFINER, "rotator": identifier(rotator)}
    names |= {"LABEL": LABEL, "VERIFIER": VERIFIER, "database": database}
    head = _HEAD.format(**names, definer=_create(DEFINER), rotator_role=_create(rotator))
    inner = "rotation.check_role(name)"
    ownership = [(inner, DEFINER), *((function, names["rotator"]) for function in FUNCTIONS)]
    functions = _FUNCTIONS.format(**names)
    functions += "".join(_OWNERSHIP.format(function=one, to=to, **names) for one, to in ownership)
    return head + functions + "".join(_roles(options, owners.items())) + _END


def _roles(options: PostgresqlOptions, owners: Iterable[tuple[str, str]]) -> Iterable[str]:
    for vps_id, owner in owners:
        a, b = (filled(role, vps_id) for role in options.roles)
        yield _ROLES.format(
            SCHEMA=SCHEMA,
            DEFINER=DEFINER,
            comment=f"The application of {vps_id}: without a password nobody can log in yet.",
            owner_role=_create(owner),
            role_a=_create(a),
            role_b=_create(b),
            owner=identifier(owner),
            owner_text=literal(owner),
            a=identifier(a),
            b=identifier(b),
            a_text=literal(a),
            b_text=literal(b),
        )


def identifier(name: str) -> str:
    """Return a name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as SQL takes it; backslashes are what they are (standard_conforming_strings)."""
    return "'" + text.replace("'", "''") + "'"


def _create(role: str) -> str:
    """Return the statement that makes a role that can log in, unless it is there."""
    return (
        f"DO $body$ BEGIN IF to_regrole({literal(identifier(role))}) IS NULL THEN\n"
        f"    CREATE ROLE {identifier(role)} LOGIN;\nEND IF; END $body$;"
    )
