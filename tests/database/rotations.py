"""Rotations: wanted once, never lost, and counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import exc, insert

from deployer.database import history, rotations, secrets
from deployer.database.errors import NotFoundError, RefusedValueError
from deployer.database.schema import rotation as table
from tests.database import making
from tests.database.making import DAY, NOW

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.database.engine import Database


def want(c: Connection, reason: str = "schedule", grp: str = "A", now: float = NOW, **more: Any) -> str:
    """Want a rotation of one secret."""
    return rotations.want(c, now, "vps-1", grp, [grp], reason=reason, asked_by="worker", **more)


class Wants:
    """What is wanted."""

    def test_it_is_wanted_once(self, database: Database) -> None:
        """Another wish of the same group joins the open one; another group has its own."""
        with database.write() as c:
            making.vps(c)
            first = want(c, rotation_id="r1", due=NOW + DAY)
            assert first == "r1"
            assert want(c, rotation_id="r1") == want(c, "ordered") == want(c, rotation_id="r2") == "r1"
            other = want(c, grp="B")
            opened = rotations.open_of(c, "vps-1")
            assert [row.id for row in opened] == sorted(["r1", other], key=[row.id for row in opened].index)
            assert len(opened) == 2
            row = rotations.get(c, "r1")
            assert row is not None
            assert (row.names, row.reason, row.state, row.due, row.wanted_at) == (
                *(("A",), "schedule", "wanted", NOW + DAY),
                NOW,
            )
            asked = [note.rotation for note in history.page(c) if note.action == "rotation.want"]
            assert sorted(asked) == sorted(["r1", other])

    def test_an_order_does_not_join_what_makes_nothing_any_more(self, database: Database) -> None:
        """A listed one whose VPS is silent: a value that is given then would be dropped."""
        with database.write() as c:
            making.vps(c)
            first = want(c, "ordered")
            rotations.progress(c, first, "listed", NOW + 1)
            assert want(c, "ordered", rotation_id=first) == first  # the same order, carried out again
            assert want(c) == first  # a date finds it anew when it is due
            second = want(c, "ordered")
            assert second != first
            assert [row.id for row in rotations.open_of(c, "vps-1")] == [second]
            row = rotations.get(c, first)
            assert row is not None
            assert (row.state, row.last_error) == ("given-up", f"replaced by {second}: ordered")

    def test_the_database_itself_refuses_a_second_open_one(self, database: Database) -> None:
        """Whatever the program does."""
        with database.write() as c:
            making.vps(c)
            want(c)
        row = {"vps": "vps-1", "grp": "A", "names": ["A"], "reason": "ordered", "wanted_at": NOW}
        with pytest.raises(Exception, match="database") as caught, database.write() as c:
            c.execute(insert(table).values(id="second", **row))
        assert isinstance(caught.value.__cause__ or caught.value.__context__, exc.IntegrityError)
        with database.write() as c:
            c.execute(insert(table).values(id="ended", ended_at=NOW, state="arrived", **row))

    def test_one_due_date_has_one_rotation(self, database: Database) -> None:
        """Whoever asks again for one that has arrived has looked too early."""
        with database.write() as c:
            making.vps(c)
            want(c, rotation_id="r1")
            rotations.progress(c, "r1", "listed", NOW + 1)
            secrets.seen(c, "vps-1", [making.secret("A", number=2, work_at=NOW + DAY)])
            rotations.progress(c, "r1", "arrived", NOW + 2)
            assert want(c, rotation_id="r1") == "r1"
            assert rotations.open_of(c, "vps-1") == ()

    @pytest.mark.parametrize("ended", ["arrived", "given-up"])
    def test_one_that_was_taken_back_does_not_keep_the_next_one_away(
        self, database: Database, ended: str
    ) -> None:
        """The former version is due as before; what the first one made is not listed again by its id."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A")])
            want(c, rotation_id="r1")
            rotations.progress(c, "r1", ended, NOW + 1)
            assert len(secrets.due_groups(c, NOW + 2)) == 1
            second = want(c, rotation_id="r1", now=NOW + 2)
            assert second != "r1"
            assert want(c, rotation_id="r1", now=NOW + 3) == second
            assert [row.id for row in rotations.open_of(c, "vps-1")] == [second]
            rotations.progress(c, second, "given-up", NOW + 4)
            assert want(c, rotation_id="r1", now=NOW + 5) not in {"r1", second}

    @pytest.mark.parametrize("reason", rotations.REPLACES)
    def test_what_can_not_wait_ends_what_is_under_way(self, database: Database, reason: str) -> None:
        """It may be what is wrong. To want it twice is once, until it is listed."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A")])
            want(c, rotation_id="r1")
            targets = {"A": making.uuid(7)} if reason == "rollback" else {}
            second = want(c, reason, targets=targets, note="left\non a train")
            (row,) = rotations.open_of(c, "vps-1")
            assert (row.id, row.reason, row.targets, row.note) == (
                *(second, reason, targets),
                "left\\non a train",
            )
            ended = rotations.get(c, "r1")
            assert ended is not None
            assert (ended.state, ended.ended_at) == ("given-up", NOW)
            assert second in ended.last_error
            assert want(c, reason) == second
            assert [each.state for each in secrets.of(c, "vps-1")] == ["rotating"]
            rotations.progress(c, second, "listed", NOW)
            assert want(c, reason) != second

    def test_a_wish_without_reason_or_name_is_refused(self, database: Database) -> None:
        """In words."""
        with database.write() as c:
            making.vps(c)
            with pytest.raises(RefusedValueError):
                want(c, "because")
            with pytest.raises(RefusedValueError):
                rotations.want(c, NOW, "vps-1", "A", [], reason="ordered", asked_by="olga")


class Progress:
    """From its wish to its arrival."""

    def test_it_goes_forward_only(self, database: Database) -> None:
        """A step that is told twice, or too late, changes nothing; attempts and errors are kept."""
        with database.write() as c:
            making.vps(c)
            want(c, rotation_id="r1", due=NOW + DAY)
            rotations.begun(c, "r1", NOW + 1)
            rotations.failed(c, "r1", "Barbican\nHTTP 500")
            rotations.begun(c, "r1", NOW + 2)
            row = rotations.get(c, "r1")
            assert row is not None
            assert (row.begun_at, row.attempts, row.last_error) == (NOW + 1, 2, "Barbican\\nHTTP 500")
            for state, at in (("listed", 3), ("listed", 4), ("arrived", 5), ("listed", 6), ("given-up", 7)):
                rotations.progress(c, "r1", state, NOW + at)
            rotations.begun(c, "r1", NOW + 8)
            rotations.failed(c, "r1", "too late")
            row = rotations.get(c, "r1")
            assert row is not None
            assert (row.state, row.listed_at, row.arrived_at, row.ended_at) == (
                *("arrived", NOW + 3, NOW + 5),
                NOW + 5,
            )
            assert (row.attempts, row.last_error) == (2, "")
            actions = [note.action for note in history.page(c, vps="vps-1")]
            assert actions == ["rotation.arrived", "rotation.listed", "rotation.want", "vps.wish"]
            assert rotations.page(c, vps_id="vps-1") == rotations.page(c) == (row,)
            assert rotations.page(c, before=(NOW, "r1")) == ()
            with pytest.raises(NotFoundError):
                rotations.progress(c, "r9", "listed", NOW)
            with pytest.raises(RefusedValueError):
                rotations.progress(c, "r1", "forgotten", NOW)

    def test_emergencies(self, database: Database) -> None:
        """What is compromised and not listed yet; for another identity all of a VPS is given up."""
        with database.write() as c:
            making.vps(c)
            for name, reason in (("A", "compromised"), ("B", "ordered"), ("C", "compromised")):
                want(c, reason, grp=name, rotation_id=name, now=NOW + ord(name))
            assert [row.id for row in rotations.emergencies(c)] == ["A", "C"]
            rotations.progress(c, "A", "listed", NOW + 100)
            assert [row.id for row in rotations.emergencies(c)] == ["C"]
            rotations.give_up_emergencies(c, NOW + 101, "vps-1")
            assert [row.id for row in rotations.open_of(c, "vps-1")] == ["B"]
            (given_up,) = {row.last_error for row in rotations.page(c) if row.state == "given-up"}
            assert "another identity" in given_up

    def test_figures_count_what_was_due(self, database: Database) -> None:
        """In time, late and by how much; open, given up; and what no rotation was begun for."""
        with database.write() as c:
            making.vps(c)
            rows = {
                "in-time": (NOW - 100, NOW - 150),
                "late": (NOW - 100, NOW - 40),
                "still": (NOW - 30, None),
                "early": (NOW + 100, NOW - 10),
                "before": (NOW - 9 * DAY, NOW),
            }
            for name, (due, arrived) in rows.items():
                want(c, grp=name, rotation_id=name, due=due)
                if arrived is not None:
                    rotations.progress(c, name, "arrived", arrived)
            want(c, grp="given", rotation_id="given", due=NOW - 70)
            rotations.progress(c, "given", "given-up", NOW)
            want(c, "ordered", grp="no date", rotation_id="ordered")
            external = secrets.SeenSecret("S", "external", "S", making.uuid(3), NOW, NOW - 1)
            secrets.seen(
                c, "vps-1", [making.secret("L", work_at=NOW - 2 * DAY), external, making.secret("X")]
            )
            figures = rotations.figures(c, NOW, NOW - DAY)
            assert figures == rotations.Figures(
                due=4, in_time=1, late=2, worst_s=60.0, open=2, given_up=1, unattended=1, external=1
            )
            assert [row.id for row in rotations.overdue(c, NOW)] == ["still"]

    def test_pages_lose_none_of_one_moment(self, database: Database) -> None:
        """A sweep wants many at once."""
        with database.write() as c:
            making.vps(c)
            for number in range(5):
                want(c, grp=f"g{number}", rotation_id=f"r{number}", now=NOW + number // 4)
            first = rotations.page(c, limit=3)
            second = rotations.page(c, before=(first[-1].wanted_at, first[-1].id), limit=3)
            assert [row.id for row in (*first, *second)] == ["r4", "r0", "r1", "r2", "r3"]

    def test_figures_of_nothing_are_zero(self, database: Database) -> None:
        """A new deployment."""
        with database.read() as c:
            assert rotations.figures(c, NOW, NOW - DAY) == rotations.Figures(0, 0, 0, 0.0, 0, 0, 0, 0)
