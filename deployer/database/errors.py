"""What can go wrong with the database, in words: one class for each thing that the caller may do about it.

No message holds a parameter of a statement or a part of a URL: they are fixed text, names and codes.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlalchemy import exc

from common.errors import VpsSecretsError


class DatabaseError(VpsSecretsError):
    """Root: what was tried, and what the operator can do. Nothing was written.

    Whoever catches one says what happens next: the worker tries again by itself, a command has ended.
    """

    retry: bool = False
    """Whether the same may work a little later, without anybody doing anything."""


class UnavailableError(DatabaseError):
    """The database can't be reached, or went away. It is used again as soon as it answers."""

    retry = True


class BusyError(DatabaseError):
    """Others held what was needed for too long, or a deadlock was resolved at our cost."""

    retry = True


class FullError(DatabaseError):
    """No room on the disk of the database, or no connection left."""

    retry = True


class ReadOnlyError(DatabaseError):
    """The database takes no writes: its file, its disk or its server is for reading."""


class DamagedError(DatabaseError):
    """What is there is no database, or one that lost its form."""


class SchemaError(DatabaseError):
    """The tables are not those of this version of the program."""


class NotFoundError(DatabaseError):
    """What is named is not there."""


class ConflictError(DatabaseError):
    """What is asked contradicts what is there already."""


class LeaseLostError(DatabaseError):
    """The lease on a VPS ran out and another worker has it, or may have: nothing may be written for it."""


class RefusedValueError(DatabaseError, ValueError):
    """What was to be stored has a form that no column takes, such as bytes or several lines."""


_OUT_OF_SQLITE: Final[dict[int, tuple[type[DatabaseError], str]]] = {
    sqlite3.SQLITE_BUSY: (BusyError, "another process kept it locked for too long."),
    sqlite3.SQLITE_LOCKED: (BusyError, "another process kept it locked for too long."),
    sqlite3.SQLITE_FULL: (FullError, "the disk is full. Make room on it."),
    sqlite3.SQLITE_READONLY: (
        ReadOnlyError,
        "the file can't be written. Give it and its folder to the user that the deployer runs as.",
    ),
    sqlite3.SQLITE_CANTOPEN: (
        UnavailableError,
        "the file can't be opened. The user that the deployer runs as must be able to write in its folder.",
    ),
    sqlite3.SQLITE_PERM: (ReadOnlyError, "the file may not be opened by the user that the deployer runs as."),
    sqlite3.SQLITE_IOERR: (
        UnavailableError,
        "the disk reported an error. Look at the kernel's log.",
    ),
    sqlite3.SQLITE_NOTADB: (DamagedError, "the file is no SQLite database. Name another file."),
    sqlite3.SQLITE_CORRUPT: (
        DamagedError,
        "the file is damaged. Move it away: vps-secrets-deploy restore reads a backup, adopt asks Barbican.",
    ),
}
_STANDBY: Final = "the server is for reading only. Name the primary, not a standby."
_NO_SESSION: Final = (
    "the server gives no session. It is down or starting, it has no connection left, or the role, the "
    "database, pg_hba.conf or the passfile do not fit: its log says which."
)
# SQLSTATE, or its first two characters (https://www.postgresql.org/docs/15/errcodes-appendix.html).
_OUT_OF_POSTGRESQL: Final[dict[str, tuple[type[DatabaseError], str]]] = {
    "08": (UnavailableError, "the connection broke."),
    "57": (UnavailableError, "the server ended the session."),
    "57014": (BusyError, "it took too long."),
    "40": (BusyError, "another transaction was in the way."),
    "55P03": (BusyError, "another transaction kept a lock for too long."),
    "25P03": (BusyError, "the transaction stood idle for too long."),
    "53100": (FullError, "the server's disk is full. Make room on it."),
    "53": (FullError, "the server lacks resources."),
    "25006": (ReadOnlyError, _STANDBY),
    "0A000": (ReadOnlyError, _STANDBY),  # what a standby says to a transaction that wants to write
    "42501": (ReadOnlyError, "the role lacks a right. It must own the deployer's tables."),
    "42P01": (SchemaError, "the deployer's tables are not there. They are made when the deployer starts."),
    "XX001": (DamagedError, "the server found its data damaged."),
    "XX002": (DamagedError, "the server found its data damaged."),
}


def explain(error: exc.SQLAlchemyError) -> DatabaseError:
    """Return what an error of the driver means, without anything that it holds."""
    original = getattr(error, "orig", None)
    kind, words = DatabaseError, f"an error of the program ({type(original or error).__name__})."
    if isinstance(original, RefusedValueError):
        return original
    if isinstance(original, sqlite3.Error):
        # the low byte is the class; what has none comes from the driver itself, such as a wrong parameter
        code = getattr(original, "sqlite_errorcode", None)
        if code is not None:
            kind, words = _OUT_OF_SQLITE.get(code & 0xFF, (kind, f"SQLite's error {code}, of the program."))
    elif original is not None and hasattr(original, "pgcode"):
        state = original.pgcode
        if state is None:  # the driver's own: there is no session, or it broke
            kind, words = UnavailableError, _NO_SESSION
        else:
            unknown = (kind, f"PostgreSQL's error {state}, of the program.")
            kind, words = _OUT_OF_POSTGRESQL.get(state) or _OUT_OF_POSTGRESQL.get(state[:2], unknown)
    elif isinstance(error, exc.TimeoutError):
        kind, words = BusyError, "all connections of this process are in use."
    elif isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        kind, words = UnavailableError, "the connection broke."
    return kind(f"the deployer's database: {words}")
