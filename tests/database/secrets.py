"""Secrets and versions as a look found them, and what is due."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import event

from deployer.core.model import Made
from deployer.database import rotations, secrets, vpses
from deployer.database.secrets import DueGroup, SeenSecret
from tests.database import making
from tests.database.making import DAY, NOW, OWNER

if TYPE_CHECKING:
    from deployer.database.engine import Database


class Sights:
    """What a look found."""

    def test_what_was_seen_is_what_is_known(self, database: Database) -> None:
        """New names come, others go, the rest is changed."""
        with database.write() as c:
            making.vps(c)
            missing = SeenSecret("C", "external", "C")
            secrets.seen(c, "vps-1", [making.secret("B"), making.secret("A"), missing])
            assert [(row.name, row.state) for row in secrets.of(c, "vps-1")] == [
                *(("A", "current"), ("B", "current")),
                ("C", "wanted"),
            ]
            secrets.seen(c, "vps-1", [making.secret("A", number=2), making.secret("D", "pair")])
            rows = {row.name: row for row in secrets.of_many(c, ["vps-1", "vps-2"])}
            assert rows.keys() == {"A", "D"}
            assert (rows["A"].current, rows["D"].grp, rows["D"].due) == (making.uuid(2), "pair", NOW + DAY)

    def test_a_missing_one_is_known_to_have_been_there(self, database: Database) -> None:
        """However often it is missed: else a key of old data would be made anew at the second look."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A"), SeenSecret("B", "random", "B")])
            for _ in "12":
                secrets.seen(c, "vps-1", [SeenSecret(name, "random", name) for name in "AB"])
            rows = {row.name: row for row in secrets.of(c, "vps-1")}
            assert (rows["A"].current, rows["A"].created) == (None, making.secret("A").created)
            assert rows["B"].created is None

    def test_the_same_again_writes_nothing(self, database: Database) -> None:
        """Most looks find nothing new: they cost readings only."""
        with database.write() as c:
            making.vps(c)
            for _ in "12":
                secrets.seen(c, "vps-1", [making.secret("A")])
                secrets.versions_seen(c, NOW, "vps-1", [making.made("A", 1)])
        said: list[str] = []
        event.listen(database._engine, "before_cursor_execute", lambda *each: said.append(each[2]))
        with database.write() as c:
            secrets.seen(c, "vps-1", [making.secret("A")])
            secrets.versions_seen(c, NOW + 1, "vps-1", [making.made("A", 1)])
        assert [line for line in said if line.startswith(("INSERT", "UPDATE", "DELETE"))] == []
        assert any(line.startswith("SELECT") for line in said)

    def test_versions_come_and_go(self, database: Database) -> None:
        """One that a person made has no marks; one that is gone is told so, and since when."""
        with database.write() as c:
            making.vps(c)
            by_hand = replace(making.made("A", 2), marks=None)
            secrets.versions_seen(c, NOW, "vps-1", [making.made("A", 1), by_hand])
            newest, former = secrets.versions_of(c, "vps-1")
            assert (newest.uuid, newest.rotation, newest.kind) == (making.uuid(2), "", "")
            assert (former.rotation, former.slot, former.first_seen) == ("r1", "a", NOW)
            marked = Made(by_hand.name, by_hand.version, by_hand.created, making.made("A", 2, "r2").marks)
            secrets.versions_seen(c, NOW + 9, "vps-1", [marked])
            (only,) = secrets.versions_of(c, "vps-1")
            assert (only.rotation, only.first_seen) == ("r2", NOW)
            everything = secrets.versions_of(c, "vps-1", gone=True)
            assert [row.gone_at for row in everything] == [None, NOW + 9]


class Due:
    """Whose time has come."""

    def test_a_group_is_due_when_its_first_secret_is(self, database: Database) -> None:
        """The whole group, once, with its earliest dates; what comes later is not."""
        with database.write() as c:
            making.vps(c, "vps-1")
            making.vps(c, "vps-2")
            pair = [making.secret("A", "pair", work_at=NOW - 5), making.secret("B", "pair", work_at=NOW - 9)]
            later = making.secret("C", work_at=NOW + 1)
            never = making.secret("D", work_at=None)
            secrets.seen(c, "vps-1", [*pair, later, never])
            secrets.seen(c, "vps-2", [making.secret("A", "pair", work_at=NOW)])
            assert secrets.due_groups(c, NOW) == (
                DueGroup("vps-1", "pair", NOW - 9 + DAY, NOW - 9),
                DueGroup("vps-2", "pair", NOW + DAY, NOW),
            )
            assert secrets.due_groups(c, NOW, 1) == (DueGroup("vps-1", "pair", NOW - 9 + DAY, NOW - 9),)
            assert [row.name for row in secrets.due_before(c, NOW + DAY)] == ["B", "A"]

    def test_what_rotates_is_not_due_again_until_it_has_ended(self, database: Database) -> None:
        """Else the same ones would fill every sweep of an outage, and hide the others."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A")])
            rotation = rotations.want(c, NOW, "vps-1", "A", ["A"], reason="schedule", asked_by="worker")
            assert secrets.due_groups(c, NOW) == ()
            secrets.seen(c, "vps-1", [making.secret("A"), making.secret("B", "A")])
            assert secrets.due_groups(c, NOW) == ()
            rotations.progress(c, rotation, "given-up", NOW)
            assert [group.grp for group in secrets.due_groups(c, NOW)] == ["A"]

    def test_a_vps_that_is_revoked_rests(self, database: Database) -> None:
        """Nobody would serve what was made for it."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A")])
            vpses.order(c, NOW, "vps-1", "revoked", "olga")
            assert secrets.due_groups(c, NOW) == ()
            vpses.order(c, NOW, "vps-1", "present", "olga")
            assert len(secrets.due_groups(c, NOW)) == 1
            assert vpses.claim_due(c, NOW, OWNER, 1) is not None
