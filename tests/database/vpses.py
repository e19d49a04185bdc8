"""VPSs: wishes, leases, and whose turn it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployer.database import history, secrets, vpses
from deployer.database.errors import (
    ConflictError,
    LeaseLostError,
    NotFoundError,
    RefusedValueError,
)
from tests.database import making
from tests.database.making import NOW, OTHER, OWNER

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from deployer.database.engine import Database


def ids(c: Connection, **query: object) -> list[str]:
    """Return the ids of a page."""
    return [row.id for row in vpses.page(c, **query)]  # type: ignore[arg-type]


class Wishes:
    """What a VPS is to be."""

    def test_a_wish_makes_a_vps_that_is_looked_at_at_once(self, database: Database) -> None:
        """With who asked in its history."""
        with database.write() as c:
            row = making.vps(c, env="prod")
            assert (row.wanted, row.state, row.labels, row.user_id, row.granted_to) == (
                *("present", "new", {"env": "prod"}, ""),
                None,
            )
            assert vpses.get(c, "vps-1") == row
            assert vpses.counts(c) == {"new": 1}
            newest = history.page(c, vps="vps-1")[0]
            assert (newest.actor, newest.action, newest.at) == ("portal", "vps.wish", NOW)
            taken = vpses.claim_due(c, NOW, OWNER, 60)
            assert taken is not None
            assert taken.id == "vps-1"

    def test_the_same_wish_again_writes_nothing(self, database: Database) -> None:
        """However often a portal repeats it."""
        with database.write() as c:
            row = making.vps(c, env="prod")
            before = history.page(c)
            assert making.vps(c, env="prod") == row
            assert history.page(c) == before

    def test_a_changed_wish_wakes_the_worker(self, database: Database) -> None:
        """And the change is in its history."""
        with database.write() as c:
            making.vps(c, env="prod")
            vpses.claim_due(c, NOW, OWNER, 60)
            vpses.release(c, NOW, "vps-1", OWNER, NOW + 300)
            making.blueprint(c, "frontend")
            changed = vpses.wish(
                c, NOW + 1, "vps-1", "frontend", labels={"env": "test"}, actor="olga", wave=2
            )
            assert (changed.blueprint, changed.labels, changed.wave) == ("frontend", {"env": "test"}, 2)
            assert history.page(c, vps="vps-1")[0].detail["blueprint"] == "frontend"
            assert vpses.claim_due(c, NOW + 1, OWNER, 60) is not None

    def test_a_blueprint_that_nobody_applied_is_refused(self, database: Database) -> None:
        """In words."""
        with database.write() as c, pytest.raises(NotFoundError, match="blueprint"):
            vpses.wish(c, NOW, "vps-1", "unknown", labels={}, actor="portal")

    def test_a_label_that_could_look_like_another_is_refused(self, database: Database) -> None:
        """Quotation marks and backslashes."""
        with database.write() as c:
            making.blueprint(c)
            for labels in ({'a"': "b"}, {"a": "b\\"}):
                with pytest.raises(RefusedValueError):
                    vpses.wish(c, NOW, "vps-1", "backend", labels=labels, actor="portal")

    def test_revoked_comes_before_everything_and_has_a_way_back(self, database: Database) -> None:
        """Who asked, and why, is in its history; asking again changes nothing."""
        with database.write() as c:
            for name in ("vps-1", "vps-2", "vps-3"):
                making.vps(c, name)
            vpses.wake(c, "vps-2", vpses.ORDERED)
            revoked = vpses.order(c, NOW, "vps-3", "revoked", "olga", note="stolen")
            assert revoked.wanted == "revoked"
            assert vpses.order(c, NOW, "vps-3", "revoked", "olga") == revoked
            newest = history.page(c, vps="vps-3")[0]
            assert (newest.action, newest.actor, newest.detail["note"]) == ("vps.revoked", "olga", "stolen")
            order = [
                row and (row.id, row.urgent) for row in (vpses.claim_due(c, NOW, OWNER, 60) for _ in "123")
            ]
            assert order == [("vps-3", 3), ("vps-2", 2), ("vps-1", 1)]
            assert vpses.order(c, NOW, "vps-3", "present", "olga").wanted == "present"

    def test_retired_has_no_way_back_and_is_forgotten_by_whoever_holds_it(self, database: Database) -> None:
        """Its secrets go with it, its history stays, and its id is free."""
        with database.write() as c:
            making.vps(c)
            secrets.seen(c, "vps-1", [making.secret("A")])
            vpses.order(c, NOW, "vps-1", "retired", "olga")
            with pytest.raises(ConflictError):
                vpses.order(c, NOW, "vps-1", "present", "olga")
            with pytest.raises(ConflictError):
                making.vps(c)
            with pytest.raises(LeaseLostError):
                vpses.forget(c, NOW, "vps-1", OWNER)
            vpses.claim_due(c, NOW, OWNER, 60)
            vpses.forget(c, NOW, "vps-1", OWNER)
            assert vpses.get(c, "vps-1") is None
            assert secrets.of(c, "vps-1") == ()
            assert history.page(c, vps="vps-1")[0].action == "vps.gone"
            assert making.vps(c).state == "new"

    def test_only_what_is_retired_is_forgotten(self, database: Database) -> None:
        """Whoever holds it."""
        with database.write() as c:
            making.vps(c)
            vpses.claim_due(c, NOW, OWNER, 60)
            with pytest.raises(ConflictError):
                vpses.forget(c, NOW, "vps-1", OWNER)

    def test_an_order_to_nobody_or_of_nothing_is_refused(self, database: Database) -> None:
        """In words; to wake nobody has no effect."""
        with database.write() as c:
            vpses.wake(c, "vps-9")
            with pytest.raises(NotFoundError):
                vpses.order(c, NOW, "vps-9", "revoked", "olga")
            making.vps(c)
            with pytest.raises(RefusedValueError):
                vpses.order(c, NOW, "vps-1", "deleted", "olga")

    def test_pages_follow_the_ids_and_are_filtered(self, database: Database) -> None:
        """By state, by one label as a whole, by failing."""
        with database.write() as c:
            making.vps(c, "a", env="prod")
            making.vps(c, "b", env="production", site="ams")
            making.vps(c, "c", env="prod", site="ams", _x="%")
            making.vps(c, "d", ENV="prod")
            vpses.wake(c, "b", vpses.ORDERED)
            vpses.claim_due(c, NOW, OWNER, 60)
            vpses.seen(c, NOW, "b", OWNER, state="serving")
            vpses.release(c, NOW, "b", OWNER, NOW + 60, failures=3, error="no answer\nat all")
        with database.read() as c:
            assert ids(c, limit=2) == ["a", "b"]
            assert ids(c, limit=2, after="b") == ["c", "d"]
            assert ids(c, label=("env", "prod")) == ["a", "c"]
            assert ids(c, label=("site", "ams")) == ["b", "c"]
            assert ids(c, label=("_x", "%")) == ["c"]
            assert ids(c, label=("nv", "prod")) == ids(c, label=("site", "am")) == []
            assert ids(c, state="serving") == ids(c, failing=True) == ["b"]
            failing = vpses.get(c, "b")
            assert failing is not None
            assert (failing.failures, failing.last_error) == (3, "no answer\\nat all")

    def test_what_is_told_from_outside_fills_gaps_only(self, database: Database) -> None:
        """A backup, or Barbican's list, replaces nothing."""
        with database.write() as c:
            making.vps(c)
            vpses.know(c, "vps-1", "u1", "")
            vpses.know(c, "vps-1", "u2", "c2")
            vpses.know(c, "vps-9", "u2", "c2")
            row = vpses.get(c, "vps-1")
            assert row is not None
            assert (row.user_id, row.container) == ("u1", "c2")


class Leases:
    """One worker at a time."""

    def test_what_is_taken_is_nobody_elses(self, database: Database) -> None:
        """Until it is given back, and then not before its time."""
        with database.write() as c:
            making.vps(c)
            taken = vpses.claim_due(c, NOW, OWNER, 60)
            assert taken is not None
            assert (taken.lease_owner, taken.lease_until) == (OWNER, NOW + 60)
            assert vpses.claim_due(c, NOW + 59, OTHER, 60) is None
            vpses.release(c, NOW + 10, "vps-1", OWNER, NOW + 300)
            assert vpses.claim_due(c, NOW + 299, OTHER, 60) is None
            assert vpses.claim_due(c, NOW + 300, OTHER, 60) is not None

    def test_a_lease_can_be_had_for_longer(self, database: Database) -> None:
        """By its owner."""
        with database.write() as c:
            making.vps(c)
            vpses.claim_due(c, NOW, OWNER, 60)
            with pytest.raises(LeaseLostError):
                vpses.keep_lease(c, NOW, "vps-1", OTHER, 60)
            vpses.keep_lease(c, NOW + 50, "vps-1", OWNER, 60)
            assert vpses.claim_due(c, NOW + 100, OTHER, 60) is None
            assert vpses.hold(c, NOW + 100, "vps-1", OWNER).id == "vps-1"

    def test_a_lease_that_ran_out_is_anothers_and_its_former_owner_can_do_nothing(
        self, database: Database
    ) -> None:
        """Not give it back, not keep it, not write; whether or not another has it by now."""
        with database.write() as c:
            making.vps(c)
            vpses.claim_due(c, NOW, OWNER, 60)
        for taken_over in (False, True):
            with database.write() as c:
                if taken_over:
                    taken = vpses.claim_due(c, NOW + 60, OTHER, 60)
                    assert taken is not None
                    assert taken.lease_owner == OTHER
                before = vpses.get(c, "vps-1")
                later = NOW + 61
                with pytest.raises(LeaseLostError, match="vps-1"):
                    vpses.release(c, later, "vps-1", OWNER, later)
                with pytest.raises(LeaseLostError):
                    vpses.keep_lease(c, later, "vps-1", OWNER, 60)
                with pytest.raises(LeaseLostError):
                    vpses.seen(c, later, "vps-1", OWNER, state="broken")
                with pytest.raises(LeaseLostError):
                    vpses.hold(c, later, "vps-1", OWNER)
                assert vpses.get(c, "vps-1") == before

    def test_the_longest_waiting_comes_first(self, database: Database) -> None:
        """As many as are asked for."""
        with database.write() as c:
            for number, wait in enumerate((30, 10, 20)):
                making.vps(c, f"vps-{number}")
                vpses.claim_due(c, NOW, OWNER, 60)
                vpses.release(c, NOW, f"vps-{number}", OWNER, NOW + wait)
            some = vpses.claim_some_due(c, NOW + 30, OWNER, 60, 2)
            assert [row.id for row in some] == ["vps-1", "vps-2"]
            assert all(row.lease_owner == OWNER for row in some)
            assert [row.id for row in vpses.claim_some_due(c, NOW + 30, OTHER, 60, 2)] == ["vps-0"]

    @pytest.mark.parametrize("urgent", [vpses.WOKEN, vpses.EMERGENCY])
    def test_to_be_woken_while_somebody_looks_is_not_lost(self, database: Database, urgent: int) -> None:
        """The look may have been too early to see what changed."""
        with database.write() as c:
            making.vps(c)
            vpses.claim_due(c, NOW, OWNER, 60)
            vpses.wake(c, "vps-1", urgent)
            vpses.wake(c, "vps-1", vpses.WOKEN)
            assert vpses.claim_due(c, NOW, OTHER, 60) is None
            vpses.release(c, NOW + 1, "vps-1", OWNER, NOW + 300)
            again = vpses.claim_due(c, NOW + 2, OTHER, 60)
            assert again is not None
            assert again.urgent == urgent
            vpses.release(c, NOW + 3, "vps-1", OTHER, NOW + 300)
            assert vpses.claim_due(c, NOW + 4, OWNER, 60) is None

    def test_several_are_given_back_at_once(self, database: Database) -> None:
        """Each with its own time; what was woken meanwhile is due, and what another has is left alone."""
        with database.write() as c:
            for name in ("a", "b", "c", "d"):
                making.vps(c, name)
                vpses.claim_due(c, NOW, OTHER if name == "d" else OWNER, 60)
            vpses.wake(c, "b", vpses.ORDERED)
            vpses.release_many(c, NOW + 1, OWNER, {})
            vpses.release_many(c, NOW + 1, OWNER, {"a": NOW + 9, "b": NOW + 9, "c": NOW + 8, "d": NOW + 9})
            taken = vpses.claim_some_due(c, NOW + 1, OTHER, 60, 9)
            assert [(row.id, row.urgent) for row in taken] == [("b", vpses.ORDERED)]
            assert vpses.hold(c, NOW + 2, "d", OTHER).lease_until == NOW + 60
            assert [row.id for row in vpses.claim_some_due(c, NOW + 9, OTHER, 60, 9)] == ["c", "a"]

    def test_a_look_writes_what_is_new(self, database: Database) -> None:
        """And leaves the rest; nobody's ACL is something else than an unknown one."""
        with database.write() as c:
            making.vps(c)
            vpses.claim_due(c, NOW, OWNER, 60)
            vpses.seen(c, NOW, "vps-1", OWNER, user_id="u1", granted_to="", looked_at=NOW)
            vpses.seen(c, NOW, "vps-1", OWNER, state="serving", served="d", served_at=NOW)
            row = vpses.get(c, "vps-1")
            assert row is not None
            found = (row.user_id, row.granted_to, row.looked_at, row.state, row.served, row.served_at)
            assert found == ("u1", "", NOW, "serving", "d", NOW)
