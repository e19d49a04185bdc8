"""Transactions, forms of the tables, claims of several processes, and what must never get in."""

from __future__ import annotations

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from alembic import command
from sqlalchemy import insert, inspect, text, update

from deployer.database import (
    backups,
    blueprints,
    checks,
    deployment,
    history,
    migrating,
    operations,
    rotations,
    schema,
    secrets,
    vpses,
)
from deployer.database.engine import open_database, time_of
from deployer.database.errors import BusyError, DatabaseError, RefusedValueError, SchemaError
from deployer.database.migrating import check, migrate
from deployer.database.secrets import SeenSecret
from deployer.database.words import Document, Json, Moment, Number, Words
from tests.database import making
from tests.database.making import NOW, OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection

    from deployer.database.engine import Database

ROOT: Final = Path(__file__).parents[2]
PROCESSES: Final = 4
ROWS: Final = 2000
HOSTILE: Final = (
    "'; DROP TABLE vps; --",
    '" OR 1=1 --',
    "%s %(id)s %%",
    ":id ${x} {y}",
    "\\'); DELETE FROM secret; --",
    "Ω' UNION SELECT 1",
)
CANARY: Final = "canary-7d1f"
VALUES: Final = (
    CANARY.encode(),
    bytearray(CANARY.encode()),
    memoryview(CANARY.encode()),
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n",
    f"{CANARY}\0",
    CANARY * 500_000,
)
"""Forms in which a value of a secret could be handed over by mistake."""


def claimer(url: str, owner: str, *options: str) -> subprocess.Popen[str]:
    """Start a process that claims as soon as it is told."""
    line = [sys.executable, "-m", "tests.database.claiming", url, owner, *options]
    process = subprocess.Popen(line, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


class Transactions:
    """What a block of reading or writing promises."""

    def test_what_reads_can_not_write(self, database: Database) -> None:
        """By the database itself, and the next transaction on the connection can."""
        for _ in range(3):
            with pytest.raises(DatabaseError), database.read() as c:
                history.note(c, NOW, "olga", "test")
            with database.write() as c:
                history.note(c, NOW, "olga", "test")
        with database.read() as c:
            assert len(history.page(c)) == 3

    def test_a_reader_sees_one_moment(self, database: Database) -> None:
        """What is written meanwhile comes after it; nobody waits for a reader."""
        with database.read() as reading:
            assert history.page(reading) == ()
            with database.write() as c:
                history.note(c, NOW, "olga", "test")
            assert history.page(reading) == ()
        with database.read() as c:
            assert len(history.page(c)) == 1

    def test_connections_are_counted(self, database: Database, url: str) -> None:
        """One that is needed while all are in use is waited for, and then that is said."""
        small = open_database(url, wait_s=0.05)
        blocks = [small.read() for _ in range(8)]
        for block in blocks:
            block.__enter__()  # all of them at once
        with pytest.raises(BusyError, match="all connections"), small.read():
            pass
        for block in blocks:
            block.__exit__(None, None, None)
        with small.read() as c:
            assert history.page(c) == ()
        small.close()
        assert not migrate(database)

    def test_a_lock_that_is_held_for_too_long_is_told(self, database: Database, url: str) -> None:
        """In plain words; the same works a little later."""
        with database.write() as c:
            making.vps(c)
        other = open_database(url, wait_s=0.05)
        with database.write() as c:
            vpses.order(c, NOW, "vps-1", "revoked", "olga")
            with pytest.raises(BusyError, match="for too long") as caught, other.write() as second:
                vpses.order(second, NOW, "vps-1", "retired", "olga")
            assert caught.value.retry
        with other.write() as second:
            vpses.order(second, NOW, "vps-1", "retired", "olga")
        other.close()

    def test_the_database_has_a_clock(self, database: Database) -> None:
        """Which all workers share."""
        with database.read() as c:
            first, second = time_of(c), time_of(c)
        assert 1.7e9 < first <= second


class Forms:
    """The form of the tables."""

    def test_to_migrate_again_does_nothing(self, database: Database) -> None:
        """The tables are there."""
        check(database)
        assert not migrate(database)

    def test_an_empty_database_is_told(self, empty: Database) -> None:
        """Where it may not be changed; then it is made."""
        with pytest.raises(SchemaError, match="form none"):
            check(empty)
        assert migrate(empty)
        check(empty)

    def test_a_newer_form_is_refused_in_plain_words(self, database: Database) -> None:
        """And left alone."""
        with database.write() as c:
            making.vps(c)
            c.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        for step in (migrate, check):
            with pytest.raises(
                SchemaError, match=r"newer version of the deployer .*9999.*Nothing was changed"
            ):
                step(database)
        with database.read() as c:
            assert vpses.get(c, "vps-1") is not None

    def test_tables_of_another_program_are_refused(self, empty: Database) -> None:
        """And left alone."""
        with empty.write() as c:
            c.execute(text("CREATE TABLE theirs (id INTEGER)"))
        with pytest.raises(SchemaError, match="another program"):
            migrate(empty)
        with empty.read() as c:
            assert inspect(c).get_table_names() == ["theirs"]

    def test_a_step_that_fails_leaves_nothing(self, empty: Database) -> None:
        """All of it, or nothing: what is in the way here is a view."""
        with empty.write() as c:
            c.execute(text("CREATE VIEW history AS SELECT 1"))
        with pytest.raises(DatabaseError):
            migrate(empty)
        with empty.write() as c:
            assert inspect(c).get_table_names() == []
            c.execute(text("DROP VIEW history"))
        assert migrate(empty)

    def test_several_that_start_at_once_migrate_once(self, empty: Database, empty_url: str) -> None:
        """One does, the others wait for it."""
        databases = [open_database(empty_url) for _ in range(PROCESSES)]
        with ThreadPoolExecutor(PROCESSES) as threads:
            assert sorted(threads.map(migrate, databases)) == [False] * (PROCESSES - 1) + [True]
        for each in databases:
            each.close()
        check(empty)

    def test_what_was_there_before_sealing_stays_and_is_off(self, empty: Database) -> None:
        """Tables of the first form with rows in them, one of which refers to another."""
        config = migrating._config()
        with empty.write() as c:
            config.attributes["connection"] = c
            command.upgrade(config, "0001")
            there = {"id": "vps-1", "blueprint": "backend", "created_at": NOW, "next_look": NOW}
            blueprint = {"name": "backend", "digest": "d", "text": "t", "applied_at": NOW}
            secret = {"vps": "vps-1", "name": "A", "kind": "random", "grp": "A"}
            for table, row in (("blueprint", blueprint), ("vps", there), ("secret", secret)):
                names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
                c.execute(text(f"INSERT INTO {table} ({names}) VALUES ({places})"), row)  # noqa: S608  # words
        assert migrate(empty)
        with empty.read() as c:
            kept = vpses.get(c, "vps-1")
            assert kept is not None
            assert kept.sealing == "off"
            assert [one.name for one in secrets.of(c, "vps-1")] == ["A"]

    def test_migrated_tables_are_those_of_the_program(
        self, database: Database, empty: Database, form: Callable[[Database], str]
    ) -> None:
        """Compared as the database itself tells them: columns, rules, indexes, triggers."""
        with empty.write() as c:
            schema.metadata.create_all(c)
        with database.write() as c:
            c.execute(text("DROP TABLE alembic_version"))
        expected = form(empty)
        assert "history is only appended to" in expected
        assert "ended_at IS NULL" in expected
        assert form(database) == expected


class Claims:
    """Workers of several processes."""

    @pytest.mark.slow
    def test_none_is_taken_twice_and_none_is_left(self, database: Database, url: str) -> None:
        """By four processes that begin at once, of two thousand that are due."""
        fresh = {"blueprint": "backend", "labels": {}, "created_at": NOW, "next_look": NOW}
        with database.write() as c:
            making.blueprint(c)
            c.execute(insert(schema.vps), [{"id": f"vps-{number}", **fresh} for number in range(ROWS)])
        processes = [claimer(url, f"worker-{number}") for number in range(PROCESSES)]
        with ThreadPoolExecutor(PROCESSES) as threads:
            said = list(threads.map(lambda process: process.communicate("go\n")[0].split(), processes))
        assert [process.returncode for process in processes] == [0] * PROCESSES
        assert all(said)
        assert sorted(itertools.chain(*said)) == sorted(f"vps-{number}" for number in range(ROWS))

    def test_what_a_killed_worker_had_is_taken_over(self, database: Database, url: str) -> None:
        """When its lease has run out, and not before."""
        with database.write() as c:
            making.vps(c)
        process = claimer(url, "worker-1", "--hold")
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "vps-1\n"
        process.kill()
        process.communicate()
        with database.write() as c:
            assert vpses.claim_due(c, NOW + 59, OWNER, 60) is None
            taken = vpses.claim_due(c, NOW + 60, OWNER, 60)
            assert taken is not None


def columns() -> Iterator[tuple[Any, Any]]:
    """Return every column of every table."""
    for table in schema.metadata.sorted_tables:
        for column in table.columns:
            yield table, column


class Refusals:
    """What no column takes, and what no text does."""

    def test_every_column_checks_what_it_takes(self) -> None:
        """By its type: a column of another one would take bytes on SQLite."""
        kinds = {type(column.type) for _, column in columns()}
        assert kinds == {Words, Json, Document, Moment, Number}

    @pytest.mark.parametrize("value", VALUES, ids=["bytes", "bytearray", "memoryview", "PEM", "NUL", "long"])
    def test_no_column_takes_a_value(self, database: Database, value: Any) -> None:
        """Not as it is and not inside JSON; the error says nothing of it."""
        with database.write() as c:
            making.vps(c)
        for table, column in columns():
            wrapped = [value, {"a": value}, [value]] if isinstance(column.type, Json) else [value]
            if isinstance(column.type, Document) and str(value).startswith("-----"):
                continue  # several lines are what it is for: see the blueprint's own checks
            for each in wrapped:
                with pytest.raises(RefusedValueError) as caught, database.write() as c:
                    c.execute(update(table).values({column.name: each}))
                assert CANARY not in str(caught.value) + repr(caught.value)

    def test_a_text_is_a_text_whatever_it_says(self, database: Database) -> None:
        """SQL in any argument is kept as it is, and does nothing."""
        for hostile in HOSTILE:
            with database.write() as c:
                kept = list(everywhere(c, hostile))
                assert [each for each in kept if hostile not in str(each)] == []
        with database.read() as c:
            assert len(vpses.page(c)) == len(HOSTILE)
            assert secrets.of(c, "' OR '1'='1") == ()
            assert vpses.page(c, state="' OR '1'='1") == ()
            assert vpses.get(c, "' OR '1'='1") is None


def everywhere(c: Connection, hostile: str) -> Iterator[object]:
    """Give one text to every function that takes one; yield what was kept where."""
    vps_id = hostile
    yield blueprints.put(c, NOW, hostile, hostile, hostile).name
    vpses.wish(c, NOW, vps_id, hostile, labels={}, actor=hostile)
    label = hostile.replace('"', "").replace("\\", "")
    row = vpses.wish(c, NOW, vps_id, hostile, labels={label: label}, actor=hostile)
    assert [each.id for each in vpses.page(c, label=(label, label))] == [vps_id]
    yield from (row.id, row.blueprint)
    assert vpses.claim_due(c, NOW, hostile, 60) is not None
    vpses.seen(
        c, NOW, vps_id, hostile, state=hostile[:32], user_id=hostile, container=hostile, served=hostile
    )
    yield vpses.page(c, state=hostile[:32])[0].user_id
    secrets.seen(c, vps_id, [SeenSecret(hostile, hostile[:32], hostile, hostile, NOW, NOW, NOW)])
    yield secrets.of(c, vps_id)[0].current
    assert hostile in {group.grp for group in secrets.due_groups(c, NOW)}
    chosen = {"rotation_id": hostile, "note": hostile, "targets": {hostile: hostile}}
    rotations.want(c, NOW, vps_id, hostile, [hostile], reason="ordered", asked_by=hostile, **chosen)  # type: ignore[arg-type]
    rotations.failed(c, hostile, hostile)
    yield rotations.open_of(c, vps_id)[0].last_error
    rotations.progress(c, hostile, "arrived", NOW)
    asked = operations.begin(c, NOW, hostile[:32], hostile, hostile, key=hostile, digest=hostile)
    operations.fail(c, NOW, asked.id, hostile)
    yield operations.begin(c, NOW, hostile[:32], hostile, hostile, key=hostile, digest=hostile).error
    checks.record(c, NOW, hostile, passed=False, detail={"a": hostile})
    yield next(each.name for each in checks.latest(c) if each.name == hostile)
    written = backups.begin(c, NOW, hostile, hostile)
    backups.written(c, NOW, written, hostile, hostile, size=1, vpses=1, secrets=1)
    backups.failed(c, NOW, written, hostile)
    found = backups.get(c, written)
    assert found is not None
    yield from (found.error, found.object)
    deployment.become(c, NOW, hostile, hostile)
    yield deployment.identity(c, NOW)
    vpses.release(c, NOW, vps_id, hostile, NOW + 300, error=hostile)
    released = vpses.get(c, vps_id)
    assert released is not None
    yield released.last_error
    yield next(note.actor for note in history.page(c, vps=vps_id) if note.actor != "worker")
