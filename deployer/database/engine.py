"""The database behind one URL: SQLite for one machine, PostgreSQL for several. Owns its connections.

Every use is one transaction: ``with database.read() as c`` or ``with database.write() as c``. An error of the
driver leaves as one of :mod:`deployer.database.errors`, and a transaction that an exception leaves is undone.

SQLite: write-ahead log, so that readers never wait; a writer takes the lock when it begins, so that no
transaction fails in its middle because another one wrote. What is committed is on the disk.
PostgreSQL: a connection that the server has closed is found before it is used, so a server that went away is
used again as soon as it is back.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from deployer.database.errors import DamagedError, DatabaseError, ReadOnlyError, UnavailableError, explain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import URL, Connection, Engine

BUSY_S: Final = 10.0
"""How long a transaction waits for others."""
# A server of another machine that vanished is given up after half a minute, not after two hours.
CONNECTION: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "application_name": "vps-secrets-deployer",
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SESSION: Final = "SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '60s'"
CONNECTIONS: Final = 8
"""Of one process."""
FILE_MODE: Final = 0o600
SHARED_FILE_MODE: Final = 0o660
WAL_PAUSE_S: Final = 0.01


class Database:
    """The connections of one process. Threads may share it; each transaction belongs to one of them."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine: Final = engine
        self.name: Final = name
        """What people know it by; without a password."""

    @property
    def is_sqlite(self) -> bool:
        """Tell SQLite from PostgreSQL."""
        return self._engine.dialect.name == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a transaction that can't write, and sees the same state from its beginning to its end."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a transaction that may write. It is committed at the end of the block, or undone."""
        with self._transaction(writes=True) as connection:
            yield connection

    def close(self) -> None:
        """Close what is open and not in use."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        options: dict[str, Any] = {"vps_secrets_writes": writes}
        if not self.is_sqlite:
            options["isolation_level"] = "READ COMMITTED" if writes else "REPEATABLE READ"
            options |= {} if writes else {"postgresql_readonly": True}
        try:
            with self._engine.connect() as plain:
                connection = plain.execution_options(**options)
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise explain(error) from None


def open_database(url: str, *, wait_s: float = BUSY_S) -> Database:
    """Return the database at ``sqlite:///PATH`` or ``postgresql+psycopg2://USER@HOST/NAME?passfile=PATH``.

    A file is made where there is none, for its owner only; for the folder's group too where the folder is
    set-group-ID, which says that the programs of several users share it. A transaction waits for others for
    ``wait_s``. Nothing is read or written yet: see :func:`deployer.database.migrating.migrate`.

    Raises:
        DatabaseError: the URL names no database, has a password in it, or its driver is not installed.
        ReadOnlyError: everybody on the machine may use the file.
        UnavailableError: the file can't be made.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(str(parsed.database))
        _make_file(path)
        engine = _engine(parsed, {"timeout": wait_s, "check_same_thread": False}, wait_s, pre_ping=False)
        event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, wait_s))
        event.listen(engine, "begin", _begin_sqlite)
        return Database(engine, str(path))
    engine = _engine(parsed, {**CONNECTION, **parsed.query}, wait_s, pre_ping=True)
    limits = f"SET lock_timeout = '{wait_s * 1000:.0f}ms'; {SESSION}"
    event.listen(engine, "connect", lambda connection, _: _prepare_postgresql(connection, limits))
    return Database(engine, f"{parsed.host or parsed.query.get('host', 'local')}/{parsed.database}")


def time_of(c: Connection) -> float:
    """Return the database's own time, so that workers of several machines agree about leases (s)."""
    if c.dialect.name == "sqlite":  # one machine
        return time.time()
    return float(c.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _parse(url: str) -> URL:
    expected = "expected sqlite:///PATH or postgresql://USER@HOST/NAME"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:  # outside, so that what holds the URL is not in our error's context
        raise DatabaseError(f"the deployer's database: {expected}.")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.drivername not in {"sqlite", "postgresql+psycopg2"}:
        raise DatabaseError(f"the deployer's database: {expected}.")
    if parsed.drivername == "sqlite" and parsed.database in {None, "", ":memory:"}:
        raise DatabaseError("the deployer's database: a file is needed, such as sqlite:////var/lib/NAME/db.")
    if parsed.password is not None or "password" in parsed.query:
        raise DatabaseError(
            "the deployer's database: no password belongs into the address. Log in over the Unix socket "
            "(peer), or put the password into a file that only the deployer reads: ?passfile=PATH."
        )
    return parsed


def _engine(url: URL, connect_args: dict[str, Any], wait_s: float, *, pre_ping: bool) -> Engine:
    bare = url.set(query={}) if url.get_backend_name() == "postgresql" else url
    try:
        return create_engine(
            bare,
            future=True,
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=wait_s,
            pool_pre_ping=pre_ping,
            connect_args=connect_args,
        )
    except (ImportError, NoSuchModuleError):
        pass
    raise DatabaseError("the deployer's database: PostgreSQL needs the package python3-psycopg2.")


def _make_file(path: Path) -> None:
    """Make the file for its owner, or for the folder's group; SQLite gives its journals the same mode."""
    reason = ""
    try:
        shared = path.parent.stat().st_mode & stat.S_ISGID
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try:
            os.fchmod(descriptor, SHARED_FILE_MODE if shared else FILE_MODE)  # whatever the umask
        finally:
            os.close(descriptor)
    except FileExistsError:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise DamagedError(f"the deployer's database: {path} is no file.") from None
        if mode & stat.S_IRWXO:
            raise ReadOnlyError(
                f"the deployer's database: everybody may use {path}. Fix it with: chmod o= {path}"
            ) from None
    except OSError as error:
        reason = f"{error.strerror}"
    if reason:
        raise UnavailableError(
            f"the deployer's database: {path} can't be made: {reason}. "
            "Its folder must exist, for the user that the deployer runs as."
        )


def _prepare_sqlite(connection: Any, wait_s: float) -> None:
    connection.isolation_level = None  # the driver begins no transaction of its own: see _begin_sqlite
    _write_ahead(connection, time.monotonic() + wait_s)
    # temp_store: beside the database and its journals, no file is written anywhere
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF", "temp_store = MEMORY"):
        connection.execute(f"PRAGMA {pragma}").close()


def _write_ahead(connection: Any, end: float) -> None:
    """Switch to a write-ahead log. While another one does, SQLite refuses at once, whatever its timeout."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("vps_secrets_writes", True)
    connection.exec_driver_sql(f"PRAGMA query_only = {'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgresql(connection: Any, limits: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(limits)
    connection.commit()
