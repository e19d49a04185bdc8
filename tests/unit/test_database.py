"""The deployer's database on SQLite, and the file that it is."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import text

from deployer.database import history, schema
from deployer.database.backups import BackupRow
from deployer.database.blueprints import BlueprintRow
from deployer.database.engine import open_database
from deployer.database.errors import (
    DamagedError,
    DatabaseError,
    FullError,
    ReadOnlyError,
    UnavailableError,
)
from deployer.database.history import HistoryRow
from deployer.database.migrating import migrate
from deployer.database.operations import Operation
from deployer.database.rotations import RotationRow
from deployer.database.secrets import SecretRow, VersionRow
from deployer.database.vpses import VpsRow
from tests.database import engines, others, rotations, secrets, vpses
from tests.database.engines import CANARY
from tests.database.making import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Table

    from deployer.database.engine import Database

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The address of the database."""
    return f"sqlite:///{tmp_path}/deployer.db"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """A file of its own."""
    made = open_database(url)
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def empty_url(tmp_path: Path) -> str:
    """The address of a database without tables."""
    return f"sqlite:///{tmp_path}/empty.db"


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    """A database without tables."""
    made = open_database(empty_url)
    yield made
    made.close()


@pytest.fixture
def form() -> Callable[[Database], str]:
    """How SQLite tells what a database consists of."""

    def told(database: Database) -> str:
        with database.read() as c:
            parts = c.execute(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")).scalars().all()
        return "\n".join(sorted(map(_in_order, parts)))

    return told


def _in_order(statement: str) -> str:
    """Return a statement with its parts in order: a column that was added later stands after the rules."""
    text = re.sub(r"\s+", " ", statement).replace('"', "").replace("( ", "(").replace(" )", ")")
    if not text.startswith("CREATE TABLE"):
        return text
    head, _, rest = text.partition("(")
    depth, parts = 0, [""]
    for letter in rest.removesuffix(")"):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    # a rule may be written behind its column
    rules = [rule for part in parts for rule in re.split(r" (?=CONSTRAINT )", part.strip())]
    return f"{head.strip()} ({', '.join(sorted(rules))})".replace("DEFAULT ('')", "DEFAULT ''")


class TestWishes(vpses.Wishes):
    """On SQLite."""


class TestLeases(vpses.Leases):
    """On SQLite."""


class TestSights(secrets.Sights):
    """On SQLite."""


class TestDue(secrets.Due):
    """On SQLite."""


class TestWants(rotations.Wants):
    """On SQLite."""


class TestProgress(rotations.Progress):
    """On SQLite."""


class TestOperations(others.Operations):
    """On SQLite."""


class TestHistory(others.History):
    """On SQLite."""


class TestRetention(others.Retention):
    """On SQLite."""


class TestOthers(others.Others):
    """On SQLite."""


class TestTransactions(engines.Transactions):
    """On SQLite."""


class TestForms(engines.Forms):
    """On SQLite."""


class TestClaims(engines.Claims):
    """On SQLite."""


class TestRefusals(engines.Refusals):
    """On SQLite."""


def test_a_new_file_that_another_one_prepares_is_waited_for(empty: Database, tmp_path: Path) -> None:
    """SQLite itself does not wait in this case."""
    with closing(sqlite3.connect(tmp_path / "empty.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as thread:
            migrating = thread.submit(migrate, empty)
            with pytest.raises(TimeoutError):
                migrating.result(0.5)
            other.execute("ROLLBACK")
            assert migrating.result()


def test_nothing_of_a_refused_value_reaches_a_file(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the database, not its journal, not a log."""
    caplog.set_level("DEBUG")
    for value in engines.VALUES:
        engines.Refusals().test_no_column_takes_a_value(database, value)
    with database.write() as c:
        history.note(c, NOW, "olga", "test")
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert files.keys() == {"deployer.db", "deployer.db-wal", "deployer.db-shm"}
    assert [name for name, content in files.items() if CANARY.encode() in content] == []
    assert CANARY not in caplog.text


def test_the_file_is_its_owners_only(database: Database, tmp_path: Path) -> None:
    """And so is the journal beside it; what is committed is written through to the disk."""
    with database.write() as c:
        history.note(c, NOW, "olga", "test")
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        settings = [
            c.execute(text(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert modes == dict.fromkeys(("deployer.db", "deployer.db-wal", "deployer.db-shm"), 0o600)
    assert settings == ["wal", 2, 1]


def test_a_folder_of_a_group_shares_the_file(url: str, tmp_path: Path) -> None:
    """Set-group-ID, as the package makes it: whatever the umask of the program that comes first."""
    tmp_path.chmod(0o2770)
    umask = os.umask(0o077)
    try:
        database = open_database(url)
        migrate(database)
        with database.write() as c:
            history.note(c, NOW, "olga", "test")
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(umask)
    database.close()
    assert modes == dict.fromkeys(("deployer.db", "deployer.db-wal", "deployer.db-shm"), 0o660)


def test_no_file_is_written_elsewhere(database: Database) -> None:
    """Sorting and undoing take memory: the package's programs may write into no other folder."""
    with database.read() as c:
        assert c.execute(text("PRAGMA temp_store")).scalar_one() == 2


def test_a_file_that_everybody_may_use_is_refused(url: str, tmp_path: Path) -> None:
    """With the line that fixes it."""
    (tmp_path / "deployer.db").touch()
    (tmp_path / "deployer.db").chmod(0o604)
    with pytest.raises(ReadOnlyError, match=re.escape(f"chmod o= {tmp_path}/deployer.db")):
        open_database(url)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, and a file in a folder that is not there."""
    with pytest.raises(DamagedError, match="is no file"):
        open_database(f"sqlite:///{tmp_path}")
    with pytest.raises(UnavailableError, match=r"No such file or directory.*folder must exist"):
        open_database(f"sqlite:///{tmp_path}/none/deployer.db")


def test_what_is_no_database_is_told(url: str, tmp_path: Path) -> None:
    """In words, and it is left as it is."""
    (tmp_path / "deployer.db").write_text("my diary\n" * 1000)
    (tmp_path / "deployer.db").chmod(0o600)
    with pytest.raises(DamagedError, match="no SQLite database"):
        migrate(open_database(url))
    assert (tmp_path / "deployer.db").read_text() == "my diary\n" * 1000


def test_a_damaged_database_is_told(database: Database, url: str, tmp_path: Path) -> None:
    """With the two ways out."""
    with database.write() as c:
        for number in range(2000):
            history.note(c, NOW, "olga", "test", detail={"n": number})
    database.close()
    path = tmp_path / "deployer.db"
    content = bytearray(path.read_bytes())
    content[4096 * 4 :] = b"\xff" * (len(content) - 4096 * 4)
    path.write_bytes(content)
    damaged = open_database(url)
    with pytest.raises(DamagedError, match=r"restore .* adopt"), damaged.read() as c:
        history.page(c, limit=2000)
    damaged.close()


INSIDE: Final = """
import sys
from deployer.database import history, schema
from deployer.database.backups import BackupRow
from deployer.database.blueprints import BlueprintRow
from deployer.database.engine import open_database
from deployer.database.errors import DatabaseError
from deployer.database.history import HistoryRow
from deployer.database.migrating import migrate
from deployer.database.operations import Operation
from deployer.database.rotations import RotationRow
from deployer.database.secrets import SecretRow, VersionRow
from deployer.database.vpses import VpsRow
database = open_database(f"sqlite:///{sys.argv[1]}/deployer.db")
try:
    migrate(database)
    for _ in range(2000):
        with database.write() as c:
            history.note(c, 1.0, "olga", "test", detail={"words": "x" * 1900})
except DatabaseError as error:
    print(type(error).__name__, error, sep=": ")
try:
    with database.read() as c:
        print("has", len(history.page(c, limit=5000)) > 0)
except DatabaseError as error:
    print(type(error).__name__, error, sep=": ")
"""


def on_a_disk_of(options: str, then: str, place: Path, program: str = INSIDE) -> list[str]:
    """Run a program with a file system of its own at ``place``; return the lines that it said."""
    place.mkdir(exist_ok=True)
    alone = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && {then} exec "$0" -c "$2" "$1"'
    line = [*alone, "sh", "-c", script, sys.executable, str(place), program]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """On a real one of a megabyte; what was committed before can be read."""
    said, readable = on_a_disk_of("size=1m,mode=0700", "", tmp_path / "disk")
    assert re.fullmatch(r"FullError: .*the disk is full\. Make room on it\.", said)
    assert readable == "has True"
    assert FullError.retry


def test_a_disk_that_is_for_reading_only_is_told(tmp_path: Path) -> None:
    """On a real one, with a database of before: it can't even be read, since its journal can't be opened."""
    make = INSIDE.replace("range(2000)", "range(1)")
    then = f'"$0" -c \'{make}\' "$1" >/dev/null && mount -o remount,ro "$1" &&'
    for said in on_a_disk_of("size=9m,mode=0700", then, tmp_path / "disk"):
        assert re.fullmatch(r"UnavailableError: .* must be able to write in its folder\.", said)


@pytest.mark.parametrize(
    ("row", "table"),
    [
        (VpsRow, schema.vps),
        (SecretRow, schema.secret),
        (VersionRow, schema.version),
        (RotationRow, schema.rotation),
        (Operation, schema.operation),
        (HistoryRow, schema.history),
        (BlueprintRow, schema.blueprint),
        (BackupRow, schema.backup),
    ],
)
def test_a_row_has_the_columns_of_its_table(row: type, table: Table) -> None:
    """In their order, by which it is made."""
    assert [field.name for field in fields(row)] == [column.name for column in table.columns]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "expected sqlite:///PATH or postgresql://USER@HOST/NAME"),
        ("mysql://host/name", "expected"),
        ("postgresql+asyncpg://host/name", "expected"),
        ("sqlite://", "a file is needed"),
        ("sqlite:///:memory:", "a file is needed"),
        (f"postgresql://u:{CANARY}@host/name", "passfile"),
        (f"postgresql:///name?host=/run&password={CANARY}", "passfile"),
        (f"{CANARY}//nothing:here", "expected"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, words: str) -> None:
    """Without a word of it: there may be a password in it; nor in what led to the error."""
    with pytest.raises(DatabaseError, match=re.escape(words)) as caught:
        open_database(address)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error!r} {error.args} {vars(error)}"
        error = error.__cause__ or error.__context__


def test_the_driver_of_postgresql_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one machine nobody needs it."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(DatabaseError, match="python3-psycopg2"):
        open_database("postgresql:///deployer")
