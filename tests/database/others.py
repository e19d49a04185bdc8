"""Operations, history, blueprints, checks, backups, and which deployment this is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from common.names import SecretName, Version
from deployer.core.model import Made, Marks
from deployer.database import (
    backups,
    blueprints,
    checks,
    deployment,
    history,
    operations,
    retention,
    rotations,
    schema,
    secrets,
    vpses,
)
from deployer.database.errors import ConflictError, DatabaseError, NotFoundError
from deployer.worker.pruning import pruner
from tests.database.making import NOW

if TYPE_CHECKING:
    from deployer.database.engine import Database


class Operations:
    """What clients asked for."""

    def test_the_same_request_is_the_same_operation(self, database: Database) -> None:
        """Another request under the same key is refused; another client's key is another's."""
        with database.write() as c:
            first = operations.begin(c, NOW, "rotate", "vps-1", "portal", key="k", digest="d", total=7)
            assert (first.state, first.total, first.done, first.detail) == ("wanted", 7, 0, {})
            assert operations.begin(c, NOW + 9, "rotate", "vps-1", "portal", key="k", digest="d") == first
            for kind, target, digest in (
                ("rotate", "vps-1", "e"),
                ("rotate", "vps-2", "d"),
                ("x", "vps-1", "d"),
            ):
                with pytest.raises(ConflictError, match="Idempotency-Key"):
                    operations.begin(c, NOW, kind, target, "portal", key="k", digest=digest)
            assert operations.begin(c, NOW, "rotate", "vps-1", "olga", key="k", digest="d").id != first.id
            asked = [row for row in history.page(c) if row.action == "operation.rotate"]
            assert {row.actor for row in asked} == {"portal", "olga"}
            assert len(asked) == 2

    def test_without_a_key_each_is_its_own(self, database: Database) -> None:
        """Two orders of a person are two."""
        with database.write() as c:
            both = {operations.begin(c, NOW, "rotate", "vps-1", "olga").id for _ in "12"}
            assert len(both) == 2
            first, second = operations.page(c)
            assert {first.id, second.id} == both
            assert operations.page(c, before=(NOW, first.id)) == (second,)
            assert operations.page(c, before=(NOW, second.id)) == ()

    def test_it_runs_and_ends_once(self, database: Database) -> None:
        """What ended stays as it ended; what has not is what a new worker goes on with."""
        with database.write() as c:
            one = operations.begin(c, NOW, "rotate", "all", "olga", total=3).id
            two = operations.begin(c, NOW + 1, "rotate", "vps-2", "olga").id
            assert [row.id for row in operations.unfinished(c)] == [one, two]
            operations.progress(c, NOW + 2, one, 1, total=4, detail={"waves": [1, 2]})
            row = operations.get(c, one)
            assert row is not None
            assert (row.state, row.done, row.total, row.detail) == ("running", 1, 4, {"waves": [1, 2]})
            operations.finish(c, NOW + 3, one, {"replaced": ["a"]})
            operations.fail(c, NOW + 3, two, "no\nway")
            for ended in (one, two):
                operations.progress(c, NOW + 4, ended, 0)
                operations.fail(c, NOW + 4, ended, "late")
                operations.finish(c, NOW + 4, ended)
            first, second = operations.get(c, one), operations.get(c, two)
            assert first is not None
            assert second is not None
            assert (first.state, first.done, first.detail, first.changed_at) == (
                *("done", 4, {"replaced": ["a"]}),
                NOW + 3,
            )
            assert (second.state, second.error) == ("failed", "no\\nway")
            assert operations.unfinished(c) == ()

    def test_who_waits_for_a_worker_that_does_not_come(self, database: Database) -> None:
        """For minutes: for a turn, or with an order; not what somebody works on, has looked at, or fails."""
        late = NOW + operations.WAITS_S
        with database.write() as c:
            blueprints.put(c, NOW, "backend", "[A]", "olga")
            for name in ("turn", "ordered", "looked"):
                vpses.wish(c, NOW, name, "backend", labels={}, actor="olga")
            assert operations.waiting(c, late) == 0
            for name in ("turn", "ordered", "looked"):
                row = vpses.claim(c, NOW, name, "worker", 60.0)
                assert row is not None
                vpses.seen(c, NOW, name, "worker", looked_at=NOW)
                after = {"turn": 1.0, "ordered": 9000.0, "looked": 9000.0}[name]
                vpses.release(c, NOW, name, "worker", NOW + after)
            assert operations.waiting(c, late) == 0
            assert operations.waiting(c, late + 1) == 1
            for name in ("ordered", "looked"):
                operations.begin(c, NOW + 2, "rotate", name, "olga")
            vpses.claim(c, NOW + 3, "looked", "worker", 60.0)
            vpses.seen(c, NOW + 3, "looked", "worker", looked_at=NOW + 3)
            vpses.release(c, NOW + 3, "looked", "worker", NOW + 9000)
            assert operations.waiting(c, late + 1) == 1
            assert operations.waiting(c, late + 2) == 2
            vpses.claim(c, late + 2, "turn", "worker", 60.0)
            vpses.claim(c, late + 2, "ordered", "worker", 60.0)
            assert operations.waiting(c, late + 2) == 0
            vpses.release(c, late + 2, "ordered", "worker", late + 9000, failures=1, error="no")
            assert operations.waiting(c, late + 2) == 0  # that it fails is told

    def test_an_unknown_one_is_told(self, database: Database) -> None:
        """In words."""
        with database.write() as c:
            assert operations.get(c, "o") is None
            with pytest.raises(NotFoundError):
                operations.progress(c, NOW, "o", 1)
            with pytest.raises(NotFoundError):
                operations.finish(c, NOW, "o")
            with pytest.raises(NotFoundError):
                operations.fail(c, NOW, "o", "why")


class History:
    """What nobody changes."""

    def test_it_is_only_appended_to(self, database: Database) -> None:
        """By the database itself: to change or delete a line fails, whatever the statement."""
        almost = time.time() - schema.KEPT_S + 3600
        with database.write() as c:
            for number in range(5):
                history.note(
                    c, almost + number, "olga", "test", vps=f"vps-{number % 2}", detail={"n": number}
                )
            lines = history.page(c)
        columns = "(id, at, actor, action) VALUES (1, 0, 'nobody', 'test')"
        statements = [
            "UPDATE history SET actor = 'nobody'",
            "UPDATE history SET at = 0",
            "DELETE FROM history",
            "DELETE FROM history WHERE id = 1",
        ]
        if database.is_sqlite:
            statements += [f"REPLACE INTO history {columns}", f"INSERT OR REPLACE INTO history {columns}"]
        else:
            statements.append("TRUNCATE history")
            statements.append(
                f"INSERT INTO history {columns} ON CONFLICT (id) DO UPDATE SET actor = 'nobody'"
            )
        for statement in statements:
            with pytest.raises(DatabaseError), database.write() as c:
                c.execute(text(statement))
        with database.read() as c:
            assert history.page(c) == lines
            assert [row.detail["n"] for row in lines] == [4, 3, 2, 1, 0]
            assert [row.detail["n"] for row in history.page(c, vps="vps-1")] == [3, 1]
            assert [row.detail["n"] for row in history.page(c, before=lines[1].id, limit=2)] == [2, 1]
            assert [row.detail["n"] for row in history.since(c, lines[2].id)] == [3, 4]

    def test_what_was_left_to_a_person(self, database: Database) -> None:
        """Of one VPS or of all, each once, the newest first; and not what is older."""
        with database.write() as c:
            for number, (vps, words) in enumerate(
                [("vps-1", "long ago"), ("vps-1", "lock a"), ("vps-2", "lock b"), ("vps-1", "lock a")]
            ):
                history.by_hand(c, NOW + number, vps, words)
            history.note(c, NOW + 9, "worker", "key.taken", vps="vps-1", name="A", rotation="r1")
            assert history.left_to_a_person(c, NOW + 1) == ("lock a", "lock b")
            assert history.left_to_a_person(c, NOW + 1, "vps-1") == ("lock a",)
            assert history.left_to_a_person(c, NOW + 4) == ()
            assert history.last(c, "vps-1", history.BY_HAND) == NOW + 3
            assert history.last(c, "vps-1", "never") is None
            assert history.has(c, "vps-1", "key.taken", "A", "r1")
            assert not history.has(c, "vps-1", "key.taken", "A", "r2")
            assert not history.has(c, "vps-2", "key.taken", "A", "r1")

    def test_a_transaction_that_fails_leaves_no_line(self, database: Database) -> None:
        """What is in history was done."""

        def note_and_fail() -> None:
            with database.write() as c:
                history.note(c, NOW, "olga", "test")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            note_and_fail()
        with database.read() as c:
            assert history.page(c) == ()


class Retention:
    """What ended long ago is deleted; what has not ended never is."""

    def test_only_what_has_ended_goes_and_some_at_a_time(self, database: Database) -> None:
        """The oldest first, of each table; an open one stays, however old, and the newest backup."""
        old = time.time() - 2 * schema.KEPT_S
        with database.write() as c:
            blueprints.put(c, old, "backend", "[A]", "olga")
            vpses.wish(c, old, "vps-1", "backend", labels={}, actor="olga")
            for number in range(3):
                operation = operations.begin(c, old + number, "rotate", "vps-1", "olga").id
                if number:
                    operations.finish(c, old + number, operation)
                wanted = rotations.want(
                    c, old + number, "vps-1", "A", ["A"], reason="ordered", asked_by="olga"
                )
                if number < 2:
                    rotations.progress(c, wanted, "arrived", old + number)
                backup = backups.begin(c, old + number, "nearby", "olga")
                backups.written(c, old + number, backup, "o", "d", size=1, vpses=1, secrets=1)
            made = Made(SecretName("A"), Version("v"), old, Marks("r", "random"))
            secrets.versions_seen(c, old, "vps-1", [made])
            secrets.versions_seen(c, old + 1, "vps-1", [])
            history.note(c, time.time(), "olga", "test")
            before = len(history.page(c))
            assert retention.prune(c, old, 1) == 0
            assert retention.prune(c, old + 9, 1) == 5  # a line each of the five tables
            assert len(history.page(c)) == before - 1
            while retention.prune(c, old + 9, 100):
                pass
            assert [row.action for row in history.page(c)] == ["test"]
            assert [row.state for row in operations.page(c)] == ["wanted"]
            assert [row.state for row in rotations.page(c)] == ["wanted"]
            assert secrets.versions_of(c, "vps-1", gone=True) == ()
            assert [row.begun_at for row in backups.page(c, 9)] == [old + 2]
            assert vpses.get(c, "vps-1") is not None

    def test_the_worker_goes_on_until_nothing_is_left(self, database: Database) -> None:
        """Soon again while there is more, and a day later else; nothing that is younger than a year."""
        now = time.time()
        with database.write() as c:
            for number in range(5):
                history.note(c, now - 3 * schema.KEPT_S + number, "olga", "test")
            history.note(c, now - 0.7 * schema.KEPT_S, "olga", "kept")
        prune = pruner(database, 2.0 * schema.KEPT_S, at_once=2)
        assert [prune(), prune(), prune()] == [1.0, 1.0, 86400.0]
        with database.read() as c:
            assert [row.action for row in history.page(c)] == ["kept"]
        with pytest.raises(DatabaseError):
            pruner(database, 0.5 * schema.KEPT_S)()  # deployer.toml can't say so
        with database.read() as c:
            assert [row.action for row in history.page(c)] == ["kept"]


class Others:
    """Blueprints, checks, backups, the deployment's id."""

    def test_blueprints_are_kept_as_written(self, database: Database) -> None:
        """Each change with who made it."""
        with database.write() as c:
            assert blueprints.get(c, "backend") is None
            first = blueprints.put(c, NOW, "backend", "[A]\n\tkind = 'random'\n", "olga")
            assert blueprints.put(c, NOW + 1, "backend", first.text, "ann") == first
            second = blueprints.put(c, NOW + 2, "backend", "[B]\n", "ann")
            blueprints.put(c, NOW, "a", "", "ann")
            assert blueprints.get(c, "backend") == second
            assert [row.name for row in blueprints.all_of(c)] == ["a", "backend"]
            changes = [row.detail["before"] for row in history.page(c) if row.detail["name"] == "backend"]
            assert changes == [first.digest, ""]

    def test_the_newest_result_of_each_check_is_told(self, database: Database) -> None:
        """And survives when old ones are deleted."""
        with database.write() as c:
            checks.record(c, NOW, "acl", passed=True)
            checks.record(c, NOW + 1, "acl", passed=False, detail={"granted": ["u2"]})
            checks.record(c, NOW, "rules", passed=True)
            latest = checks.latest(c)
            assert [(row.name, row.passed, row.detail) for row in latest] == [
                ("acl", False, {"granted": ["u2"]}),
                ("rules", True, {}),
            ]
            checks.prune(c, NOW + 9)
            assert checks.latest(c) == latest

    def test_a_backup_is_written_and_proved(self, database: Database) -> None:
        """Or failed, with its reason."""
        with database.write() as c:
            one = backups.begin(c, NOW, "directory /srv/backup", "worker")
            backups.written(c, NOW + 1, one, "2027.age", "d", size=3_000_000_000, vpses=2, secrets=14)
            backups.proved(c, NOW + 2, one)
            two = backups.begin(c, NOW + 3, "swift", "worker")
            backups.failed(c, NOW + 4, two, "HTTP 403\n")
            second, first = backups.page(c)
            assert (first.state, first.size, first.proved_at, first.object) == (
                *("proved", 3_000_000_000, NOW + 2),
                "2027.age",
            )
            assert (second.state, second.error, second.ended_at) == ("failed", "HTTP 403\\n", NOW + 4)
            assert backups.get(c, one) == first
            with pytest.raises(NotFoundError):
                backups.proved(c, NOW, "b")

    def test_a_deployment_has_one_id(self, database: Database) -> None:
        """Until it becomes another one, restored from a backup."""
        with database.write() as c:
            own = deployment.identity(c, NOW)
            assert deployment.identity(c, NOW + 1) == own
            deployment.become(c, NOW, own, "olga")
            deployment.become(c, NOW, "former", "olga")
            assert deployment.identity(c, NOW) == "former"
            assert [row.detail for row in history.page(c)] == [{"before": own, "deployment": "former"}]
