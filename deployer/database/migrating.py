"""Brings the tables to the form of this version of the program, in one transaction: all of it or nothing.

Several processes may start at once: one of them migrates, the others wait and find it done.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from deployer.database.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.database.engine import Database

SCRIPTS: Final = Path(__file__).parent / "migrations"
LOCK: Final = 0x7650735365637265
"""Of PostgreSQL: a number that nobody else is likely to lock; SQLite's writers wait for each other anyway."""


def migrate(database: Database) -> bool:
    """Make the tables, or bring them up to date. Return whether there was something to do.

    Raises:
        SchemaError: the tables were made by a newer version of the program, or by another program.
        DatabaseError: the database can't be used; nothing has changed.
    """
    with database.write() as c:
        if not database.is_sqlite:
            c.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        before = _revision(c, database)
        config = _config()
        if before == _newest(config):
            return False
        config.attributes["connection"] = c
        command.upgrade(config, "head")
    return True


def check(database: Database) -> None:
    """Refuse tables that this version of the program can't use, without changing them.

    Raises:
        SchemaError: they have to be made or brought up to date first, or this program has.
    """
    with database.read() as c:
        found = _revision(c, database)
    newest = _newest(_config())
    if found != newest:
        raise SchemaError(
            f"the deployer's database {database.name}: its tables have form {found or 'none'}, "
            f"{newest} is needed. They are brought up to date when the deployer's service starts."
        )


def _revision(c: Connection, database: Database) -> str | None:
    """Return the form of the tables that are there; None where there are none."""
    tables = inspect(c).get_table_names()
    where = f"the deployer's database {database.name}"
    if "alembic_version" not in tables:
        if tables:
            raise SchemaError(f"{where}: it has tables of another program. Name a database of its own.")
        return None
    found = c.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    known = {script.revision for script in _scripts(_config()).walk_revisions()}
    if not found:
        return None
    if len(found) > 1 or found[0] not in known:
        raise SchemaError(
            f"{where}: its tables were made by a newer version of the deployer (form {found[0]}; this one "
            f"knows {_newest(_config())}). Nothing was changed. Install the newer version again, or name "
            "an empty database and run: vps-secrets-deploy adopt"
        )
    return str(found[0])


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    return config


def _scripts(config: Config) -> ScriptDirectory:
    return ScriptDirectory.from_config(config)


def _newest(config: Config) -> str:
    return str(_scripts(config).get_current_head())
