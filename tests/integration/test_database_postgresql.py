"""The deployer's database on a real PostgreSQL, and a server that goes away."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, text

from deployer.database import history, schema, vpses
from deployer.database import rotations as rotations_of
from deployer.database import secrets as secrets_of
from deployer.database.engine import open_database
from deployer.database.errors import (
    BusyError,
    DatabaseError,
    ReadOnlyError,
    SchemaError,
    UnavailableError,
)
from deployer.database.migrating import migrate
from deployer.worker.pruning import pruner
from lab.testbed.postgresql import SUPERUSER, Postgresql
from tests.database import engines, making, others, rotations, secrets
from tests.database import vpses as cases
from tests.database.making import NOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployer.database.engine import Database

ROOT = Path(__file__).parents[2]


class Server:
    """A server with two databases, of which the tests take turns: one with the tables, one empty."""

    def __init__(self, postgresql: Postgresql) -> None:
        self.url = postgresql.url
        self.programs = postgresql._programs
        self._administrator = create_engine(self.url, future=True, isolation_level="AUTOCOMMIT")
        self.run("CREATE DATABASE other")

    def named(self, name: str) -> str:
        """Return the address of a database."""
        return self.url.replace("/postgres?", f"/{name}?")

    def emptied(self, name: str) -> str:
        """Make a database as good as new and return its address."""
        engine = create_engine(self.named(name), future=True)
        with engine.begin() as c:
            c.execute(text("DROP SCHEMA public CASCADE"))
            c.execute(text("CREATE SCHEMA public"))
        engine.dispose()
        return self.named(name)

    def run(self, statement: str, **parameters: str) -> None:
        """Do something as an administrator."""
        with self._administrator.connect() as c:
            c.execute(text(statement), parameters)

    def wait_for(self, question: str) -> None:
        """Wait until a question has an answer; the test's own timeout ends it."""
        with self._administrator.connect() as c:
            while c.execute(text(question)).first() is None:
                time.sleep(0.01)

    def close(self) -> None:
        """Close what is open."""
        self._administrator.dispose()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One for all tests that do not break it."""
    with Postgresql() as postgresql:
        made = Server(postgresql)
        yield made
        made.close()


@pytest.fixture
def url(server: Server) -> str:
    """The address of the database."""
    return server.emptied("postgres")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    """One with its tables."""
    made = open_database(url)
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def empty_url(server: Server) -> str:
    """The address of a database without tables."""
    return server.emptied("other")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    """A database without tables."""
    made = open_database(empty_url)
    yield made
    made.close()


@pytest.fixture
def form(server: Server) -> Callable[[Database], str]:
    """How PostgreSQL's own tool tells what a database consists of."""

    def told(database: Database) -> str:
        database.close()
        host, _, name = database.name.rpartition("/")
        line = [
            str(server.programs / "pg_dump"),
            "--schema-only",
            f"--host={host}",
            f"--username={SUPERUSER}",
            name,
        ]
        dump = subprocess.run(line, capture_output=True, text=True, check=True).stdout
        return "\n".join(each for each in dump.splitlines() if not each.startswith("\\"))  # a random token

    return told


class TestWishes(cases.Wishes):
    """On PostgreSQL."""


class TestLeases(cases.Leases):
    """On PostgreSQL."""


class TestSights(secrets.Sights):
    """On PostgreSQL."""


class TestDue(secrets.Due):
    """On PostgreSQL."""


class TestWants(rotations.Wants):
    """On PostgreSQL."""


class TestProgress(rotations.Progress):
    """On PostgreSQL."""


class TestOperations(others.Operations):
    """On PostgreSQL."""


class TestHistory(others.History):
    """On PostgreSQL."""


class TestRetention(others.Retention):
    """On PostgreSQL."""


class TestOthers(others.Others):
    """On PostgreSQL."""


class TestTransactions(engines.Transactions):
    """On PostgreSQL."""


class TestForms(engines.Forms):
    """On PostgreSQL."""


class TestClaims(engines.Claims):
    """On PostgreSQL."""


class TestRefusals(engines.Refusals):
    """On PostgreSQL."""


def test_a_server_that_goes_away_is_told_and_used_again() -> None:
    """In order, by a crash, and in the middle of a transaction; the same connections' owner goes on."""
    with Postgresql() as server:
        database = open_database(server.url)
        migrate(database)
        for end in (signal.SIGINT, signal.SIGQUIT):
            with database.write() as c:
                history.note(c, NOW, "olga", "before")
            with pytest.raises(UnavailableError, match="the server gives no session"):
                interrupted(database, lambda end=end: server.stop(end))  # type: ignore[misc]
            for _ in range(3):
                with pytest.raises(UnavailableError, match="gives no session"), database.write() as c:
                    history.note(c, NOW, "olga", "never")
            server.start()
            with database.write() as c:
                history.note(c, NOW, "olga", "after")
        with database.read() as c:
            said = [line.action for line in reversed(history.page(c))]
        assert said == ["before", "after"] * 2
        database.close()


def interrupted(database: Database, interruption: Callable[[], None]) -> None:
    """Write, with an interruption before it is committed."""
    with database.write() as c:
        history.note(c, NOW, "olga", "never")
        interruption()


def test_a_session_that_is_ended_is_told(database: Database, server: Server) -> None:
    """By an administrator: nothing of its transaction stays, and the next one has another session."""
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"
    with pytest.raises(UnavailableError, match="the server gives no session"):
        interrupted(database, lambda: server.run(end, name="vps-secrets-deployer"))
    with database.read() as c:
        assert history.page(c) == ()


def test_a_deadlock_costs_one_of_the_two(database: Database) -> None:
    """Which is told to try again; the other is done."""
    with database.write() as c:
        for name in ("a", "b"):
            making.vps(c, name)
    met = threading.Barrier(2)
    failed: list[DatabaseError] = []

    def lock(first: str, second: str) -> None:
        try:
            with database.write() as c:
                vpses.wake(c, first, vpses.ORDERED)
                met.wait(60)
                vpses.wake(c, second, vpses.ORDERED)
        except DatabaseError as error:
            failed.append(error)

    threads = [threading.Thread(target=lock, args=names) for names in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (error,) = failed
    assert isinstance(error, BusyError)
    assert error.retry
    with database.read() as c:
        assert [row.urgent for row in vpses.page(c)] == [vpses.ORDERED] * 2


def test_who_wants_a_rotation_does_not_meet_who_looks_at_the_vps(database: Database, server: Server) -> None:
    """Both write about the same VPS, and the one waits for the other, never each for each."""
    with database.write() as c:
        making.vps(c)
        secrets_of.seen(c, "vps-1", [making.secret("A")])
        vpses.claim_due(c, NOW, making.OWNER, 60)

    def order() -> None:
        with database.write() as c:
            rotations_of.want(c, NOW, "vps-1", "A", ["A"], reason="ordered", asked_by="olga")
            vpses.wake(c, "vps-1", vpses.ORDERED)

    with ThreadPoolExecutor(1) as thread:
        with database.write() as looking:
            vpses.hold(looking, NOW, "vps-1", making.OWNER)
            ordered = thread.submit(order)
            server.wait_for("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            with database.write() as sweeping:
                assert secrets_of.due_groups(sweeping, NOW, to_want=True) == ()
            secrets_of.seen(looking, "vps-1", [making.secret("A", number=2)])
        ordered.result()
    with database.read() as c:
        assert [row.state for row in secrets_of.of(c, "vps-1")] == ["rotating"]
        assert [row.reason for row in rotations_of.open_of(c, "vps-1")] == ["ordered"]


def test_an_address_that_leads_nowhere_is_told(server: Server) -> None:
    """No such database, no such role, no such server."""
    for address in (
        server.named("nowhere"),
        server.url.replace(f"{SUPERUSER}@", "stranger@"),
        server.url.replace("host=/", "host=/nowhere/"),
    ):
        database = open_database(address)
        with pytest.raises(UnavailableError, match="gives no session"):
            migrate(database)
        database.close()


def test_a_server_for_reading_only_is_told() -> None:
    """A real standby, and one whose administrator wants no writes."""
    with Postgresql() as server:
        database = open_database(server.url)
        migrate(database)
        server.stop()
        (server.directory / "data/standby.signal").touch()
        server.start()
        unwritable = open_database(f"{server.url}&options=-c default_transaction_read_only=on")
        for each in (database, unwritable):
            for _ in range(2):
                with each.read() as c:
                    assert history.page(c) == ()
                with pytest.raises(ReadOnlyError, match="primary"), each.write() as c:
                    history.note(c, NOW, "olga", "test")
            each.close()


def test_a_history_that_the_deployer_does_not_own(database: Database, url: str) -> None:
    """By the lines of docs/deployment.md it does all that it needs, and can't take the triggers away."""
    own, auditor = '"vps-secrets-worker"', "auditor"
    text_of_the_page = (ROOT / "docs/deployment.md").read_text()
    lines = re.findall(r"^    ((?:ALTER TABLE history|GRANT) .*;)$", text_of_the_page, re.MULTILINE)
    assert len(lines) == 4
    with database.write() as c:
        for role in (own, auditor):
            c.execute(text(f"CREATE ROLE {role} LOGIN"))
        tables = [each for each in schema.metadata.tables if each != "history"]
        for table in (*tables, "alembic_version"):
            c.execute(text(f"ALTER TABLE {table} OWNER TO {own}"))
        for line in lines:
            c.execute(text(line))
    deployer = open_database(f"{url}&options=-c role=vps-secrets-worker")
    try:
        assert not migrate(deployer)
        with deployer.write() as c:
            history.note(c, time.time() - 3 * schema.KEPT_S, "olga", "old")
            history.note(c, time.time() - 0.5 * schema.KEPT_S, "olga", "kept")
        pruner(deployer, 2.0 * schema.KEPT_S)()
        for statement in (
            "DELETE FROM history",
            "UPDATE history SET actor = 'nobody'",
            "TRUNCATE history",
            "ALTER TABLE history DISABLE TRIGGER ALL",
            "DROP TRIGGER history_keep ON history",
            "DROP TABLE history",
            "CREATE OR REPLACE FUNCTION history_keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN END$$",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DatabaseError), deployer.write() as c:
                c.execute(text(statement))
        with deployer.read() as c:
            assert [row.action for row in history.page(c)] == ["kept"]
    finally:
        deployer.close()
        with database.write() as c:
            for role in (own, auditor):
                c.execute(text(f"REASSIGN OWNED BY {role} TO {SUPERUSER}"))
                c.execute(text(f"DROP OWNED BY {role}"))
                c.execute(text(f"DROP ROLE {role}"))


def test_tables_that_are_not_there_are_told(empty: Database) -> None:
    """Somebody forgot to start the service first."""
    with pytest.raises(SchemaError, match="made when the deployer starts"), empty.read() as c:
        history.page(c)


def test_a_server_without_room_is_told() -> None:
    """No connection left: the words say what to raise, and it is tried again."""
    with Postgresql({"max_connections": "4", "superuser_reserved_connections": "0"}) as server:
        database = open_database(server.url)
        migrate(database)
        engine = create_engine(server.url, future=True)
        taken = [engine.connect() for _ in range(3)]
        with database.read() as c, pytest.raises(DatabaseError) as caught, database.read():
            history.page(c)
        assert caught.value.retry
        for connection in taken:
            connection.close()
        engine.dispose()
        with database.read() as one, database.read() as two:
            assert history.page(one) == history.page(two) == ()
        database.close()
