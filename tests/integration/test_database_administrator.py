"""Somebody who can write in the deployer's database: what he can't get by it, and what he can.

The worker asks the registrar whose user is whose, and Barbican what is whose: nothing of one VPS becomes
another's. What a VPS is to be (``wanted``, its blueprint) is what the database says, so he can change that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, update

from deployer.database import history, schema, vpses
from tests.integration.test_worker_faults import VPS, Bench
from tests.integration.test_worker_faults import bench as bench  # noqa: PLC0414  # a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHER = "vps-2"


@pytest.fixture
def both(bench: Bench) -> Iterator[Bench]:
    """Two VPSs with secrets, and a worker that has just started."""
    with bench.database.write() as c:
        vpses.wish(c, time.time(), OTHER, "backend", labels={}, actor="test")
    assert bench.worker.run_one("test")
    assert bench.readers() == {(f"user-of-{VPS}",), (f"user-of-{OTHER}",)}
    bench.means.registrar._users.clear()
    yield bench
    fake = bench.fake
    readers = [(one.name, one.users) for one in fake.secrets.values()]
    for name, users in readers + [(one.name, one.users) for one in fake.containers.values()]:
        assert set(users) <= {f"user-of-{name.partition('/')[0]}"}, "another VPS's user was let in"


def edit(bench: Bench, **values: Any) -> None:
    """Change the row of the first VPS; the other one is left alone."""
    with bench.database.write() as c:
        c.execute(update(schema.vps).where(schema.vps.c.id == VPS).values(**values))
        c.execute(update(schema.vps).where(schema.vps.c.id == OTHER).values(lease_until=time.time() + 1e6))


def turn(bench: Bench) -> str:
    """Look at the first VPS; return what the look failed with."""
    with bench.database.write() as c:
        values = {"next_look": 0.0, "lease_until": 0.0}
        c.execute(update(schema.vps).where(schema.vps.c.id == VPS).values(values))
    bench.worker.run_one("test")
    return bench.row().last_error


def other(bench: Bench) -> vpses.VpsRow:
    """Return the other VPS."""
    with bench.database.read() as c:
        row = vpses.get(c, OTHER)
    assert row is not None
    return row


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("then", ["nothing", "ordered", "compromised"])
def test_the_user_of_another_vps_is_not_let_in(both: Bench, then: str, *, hidden: bool) -> None:
    """Not at once, and not with the next version; also where the row says that he is in already."""
    user = f"user-of-{OTHER}"
    edit(both, user_id=user, granted_to=user if hidden else f"user-of-{VPS}")
    if then != "nothing":
        both.want("session", "JWT_SECRET", "SESSION_SECRET", reason=then)
    told = turn(both)
    assert turn(both) == told
    if then != "nothing" or not hidden:
        assert "another Keystone user than the registrar" in told
    edit(both, user_id=f"user-of-{VPS}")
    turn(both)
    assert both.row().last_error == ""
    assert both.readers() == {(f"user-of-{VPS}",), (f"user-of-{OTHER}",)}


def test_a_user_that_is_nobodys_is_not_let_in(both: Bench) -> None:
    """Nor one that the registrar has never heard of; after a start or in the middle of it."""
    both.means.registrar.confirm(VPS, f"user-of-{VPS}")
    edit(both, user_id="0" * 32)
    assert "another Keystone user" in turn(both)


def test_the_container_of_another_vps_is_not_taken(both: Bench) -> None:
    """Its name is in Barbican, where the database's administrator can't write."""
    edit(both, container=other(both).container)
    both.want("session", "JWT_SECRET", "SESSION_SECRET")
    assert "name is not vps-1" in turn(both)
    of_both = [one.entries for one in both.fake.containers.values()]
    assert [len(entries) for entries in of_both] == [3, 3]


def test_versions_of_another_vps_are_not_listed(both: Bench) -> None:
    """Not as the newest of a name, and not as the aim of a rollback."""
    foreign = [one for one in both.fake.secrets.values() if one.name == f"{OTHER}/ALONE"]
    order = both.want("ALONE", "ALONE", reason="rollback")
    with both.database.write() as c:
        marks = {"rotation": "0" * 32, "kind": "password", "slot": "", "created": time.time() + 60}
        row = {"uuid": foreign[0].id, "vps": VPS, "name": "ALONE", "first_seen": time.time(), **marks}
        c.execute(schema.version.delete().where(schema.version.c.uuid == foreign[0].id))
        c.execute(insert(schema.version).values(**row))
        c.execute(update(schema.rotation).values(targets={"ALONE": foreign[0].id}))
    edit(both, granted_to="")
    turn(both)
    assert foreign[0].id not in both.listed().values()
    assert both.state_of(order) == "given-up"


def test_what_the_database_wants_is_done(both: Bench) -> None:
    """The limit: who can write there can give a revoked VPS its own access back, and no record says who."""
    with both.database.write() as c:
        vpses.order(c, time.time(), VPS, "revoked", "olga")
    turn(both)
    assert both.readers() == {(), (f"user-of-{OTHER}",)}
    with both.database.read() as c:
        before = {row.id for row in history.page(c, vps=VPS)}
    edit(both, wanted="present")
    turn(both)
    assert both.readers() == {(f"user-of-{VPS}",), (f"user-of-{OTHER}",)}
    with both.database.read() as c:
        new = [row for row in history.page(c, vps=VPS) if row.id not in before]
    assert {row.actor for row in new} <= {"worker"}
