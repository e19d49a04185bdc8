"""What the worker does about a bad Barbican, registrar, third party, blueprint or clock."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from sqlalchemy import text, update

from common.names import SecretName, Version
from deployer.cloud.barbican import Barbican
from deployer.config.zones import zone
from deployer.core import blueprint
from deployer.database import blueprints, history, rotations, schema, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.kinds.external import External
from deployer.kinds.kind import KindError
from deployer.kinds.password import Password
from deployer.kinds.random import Random
from deployer.kinds.value import Value
from deployer.worker.giving import Giving, NotJoinedError
from deployer.worker.loop import Worker
from deployer.worker.means import Means
from deployer.worker.pacing import Pace, PacedSession
from deployer.worker.registrar import Registrar
from lab.testbed.deployer import until
from lab.testbed.fakes.barbican import FakeBarbican
from lab.testbed.fakes.proxy import FaultProxy, Handler, Real, reset
from lab.testbed.fakes.registrar import FakeRegistrar
from lab.testbed.workers import PAIR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deployer.database.engine import Database
    from deployer.database.vpses import VpsRow
    from deployer.kinds.kind import Facts

VPS = "vps-1"
ALONE = '[ALONE]\nkind = "password"\nrotate = "30d"\n'
EIGHT_CALLS = 8


class Fragile(Password):
    """Makes passwords, where its third party is not ``away``; ``then`` happens before it takes one."""

    def __init__(self) -> None:
        self.away: set[str] = set()
        self.unending = False
        self.taken: list[str] = []
        self.locked: list[tuple[str, int]] = []
        """Whose accounts were locked, and how many values had been taken by then."""
        self.lockable = True
        self.then: Callable[[], None] = lambda: None

    def preflight(self, facts: Facts) -> None:
        """Fail while it is away."""
        if facts.name in self.away:
            raise KindError("preflight", "the third party is away")

    def make(self, facts: Facts) -> Value:
        """Make one, and then."""
        self.then()
        return super().make(facts)

    def apply(self, facts: Facts, value: Value) -> None:  # noqa: ARG002  # as Kind has it
        """Take it."""
        self.taken.append(facts.version)

    def lock(self, facts: Facts) -> None:
        """Note it."""
        if not self.lockable:
            raise KindError("lock", "the third party is away")
        self.locked.append((facts.name, len(self.taken)))

    def retire(self, facts: Facts) -> None:
        """Fail while it is away."""
        if self.unending:
            raise KindError("retire", f"the third party is away for {facts.name}")


@dataclass
class Bench:
    """A worker that takes a turn when it is told to."""

    fake: FakeBarbican
    proxy: FaultProxy
    registrar: FakeRegistrar
    database: Database
    means: Means
    worker: Worker
    kind: Fragile

    def turn(self) -> VpsRow:
        """Look at the VPS once, as if it were due; return it afterwards."""
        with self.database.write() as c:
            c.execute(update(schema.vps).values(next_look=0.0, lease_until=0.0))
        assert self.worker.run_one("test")
        return self.row()

    def row(self) -> VpsRow:
        """Return the VPS."""
        with self.database.read() as c:
            row = vpses.get(c, VPS)
        assert row is not None
        return row

    def apply(self, written: str) -> None:
        """Let the VPS have this blueprint."""
        with self.database.write() as c:
            blueprints.put(c, time.time(), "backend", written, "test")
            vpses.wish(c, time.time(), VPS, "backend", labels={}, actor="test")

    def want(self, group: str, *names: str, reason: str = "ordered") -> str:
        """Order a rotation."""
        with self.database.write() as c:
            return rotations.want(c, time.time(), VPS, group, names, reason=reason, asked_by="test")

    def state_of(self, order: str) -> str:
        """Return how far a rotation is."""
        with self.database.read() as c:
            row = rotations.get(c, order)
        assert row is not None
        return row.state

    def listed(self) -> dict[str, str]:
        """Return what the container lists, by entry."""
        (container,) = (one for one in self.fake.containers.values() if one.name == VPS)
        return dict(container.entries)

    def tidy(self) -> None:
        """Let what nobody lists be gone, as if hours had passed."""
        listed = set(self.listed().values())
        for version in self.fake.secrets.keys() - listed:
            del self.fake.secrets[version]

    def readers(self) -> set[tuple[str, ...]]:
        """Return whom the ACLs name."""
        containers = {one.users for one in self.fake.containers.values()}
        return containers | {one.users for one in self.fake.secrets.values()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A VPS with a pair and one more secret, provisioned."""
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    with (
        FakeBarbican() as fake,
        FaultProxy(fake.url) as proxy,
        FakeRegistrar(tmp_path / "registrar.sock") as registrar,
    ):
        login = v3.ApplicationCredential(
            auth_url=fake.auth_url, application_credential_id="id", application_credential_secret="none"
        )
        session: Any = PacedSession(Session(auth=login), Pace(10_000.0, 10_000))
        external, kind = External(), Fragile()
        means = Means(
            database=database,
            barbican=Barbican(session, proxy.url),
            registrar=Registrar(tmp_path / "registrar.sock"),
            kinds={one.name: one for one in (Random(), kind, external)},
            external=external,
            parse=lambda name, written: blueprint.parse(written.encode(), Path(f"{name}.toml"), zone),
            touch=lambda _: None,
            lease_s=60.0,
            interval_s=3600.0,
        )
        made = Bench(fake, proxy, registrar, database, means, Worker(means, 1, 1.0), kind)
        made.apply(PAIR + ALONE)
        made.turn()
        assert len(made.listed()) == 3
        yield made
        assert (fake.asked_for_payloads, fake.strange) == ([], [])
    database.close()


def broken(handler: Handler) -> None:
    """Do what was asked, and say that it failed."""
    handler.fetch()
    handler.give(Real(500, (("Content-Type", "text/html"),), b"<html>"))


def undone(handler: Handler) -> None:
    """Do nothing, and say that it failed."""
    handler.give(Real(503, (("Content-Type", "text/html"),), b"<html>"))


def lost(handler: Handler) -> None:
    """Do what was asked, and never answer."""
    handler.fetch()
    reset(handler)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("reason", "fault"),
    [
        ("ordered", lost),
        ("compromised", undone),
        *(
            pytest.param(*one, marks=pytest.mark.nightly)
            for one in (
                ("ordered", broken),
                ("ordered", undone),
                ("compromised", broken),
                ("compromised", lost),
            )
        ),
    ],
)
def test_any_call_of_a_rotation_may_fail(bench: Bench, fault: Callable[[Handler], None], reason: str) -> None:
    """The next look finishes it: listed once, nobody else's, removed only after its successor is there."""
    for calls in range(1, 100):
        left = [calls]

        def failing(handler: Handler, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                fault(handler)
            else:
                handler.give(handler.fetch())

        before = set(bench.listed().values())
        order = bench.want("session", "JWT_SECRET", "SESSION_SECRET", reason=reason)
        with bench.proxy.faulty(failing):
            bench.turn()
        row = bench.turn()
        assert row.last_error == ""
        assert bench.state_of(order) == "listed"
        after = bench.listed()
        assert len({name.partition("~")[0] for name in after}) == 3
        assert len(set(after.values()) - before) == 2
        assert bench.readers() <= {("user-of-vps-1",), ()}
        for loss in bench.fake.losses:
            names = {name.partition("~")[0] for name, _ in loss.left}
            assert loss.entry.partition("~")[0] in names
        with bench.database.write() as c:
            rotations.progress(c, order, "arrived", time.time())
        bench.tidy()
        if left[0] > 0:
            break
    assert calls > EIGHT_CALLS


@pytest.mark.parametrize("fault", [broken, undone, lost])
def test_a_container_that_comes_back_may_be_read(bench: Bench, fault: Callable[[Handler], None]) -> None:
    """Also where its ACL failed: the database knows about the ACL of the former one only."""
    bench.means.barbican.delete_container(Version(bench.row().container))
    with bench.proxy.faulty(fault, "/acl"):
        bench.turn()
    row = bench.turn()
    assert (row.last_error, row.granted_to) == ("", "user-of-vps-1")
    assert {one.users for one in bench.fake.containers.values()} == {("user-of-vps-1",)}


def test_access_that_was_given_back_halfway_is_taken_again(bench: Bench) -> None:
    """The worker breaks off after the ACLs; nobody may believe that they still name nobody."""

    def order(wanted: str) -> None:
        with bench.database.write() as c:
            vpses.order(c, time.time(), VPS, wanted, "test")

    order("revoked")
    bench.turn()
    assert bench.readers() == {()}
    order("present")
    container = f"/containers/{bench.row().container}/acl"
    with bench.proxy.faulty(lost, container):
        bench.turn()
    order("revoked")
    bench.turn()
    assert bench.readers() == {()}


@pytest.mark.parametrize("wanted", ["revoked", "retired"])
def test_access_ends_though_the_registrar_is_away(bench: Bench, wanted: str) -> None:
    """And the VPS is not done before its user is shut out too."""
    bench.registrar.away = True
    with bench.database.write() as c:
        vpses.order(c, time.time(), VPS, wanted, "test")
    row = bench.turn()
    assert ("Keystone does not answer" in row.last_error, row.state == wanted) == (True, False)
    assert bench.readers() <= {()}
    bench.registrar.away = False
    if wanted == "revoked":
        row = bench.turn()
        assert (row.last_error, row.state) == ("", wanted)
    else:
        assert bench.worker.run_one("test") is False  # it waits for its next try
        with bench.database.write() as c:
            vpses.wake(c, VPS)
        assert bench.worker.run_one("test")
        with bench.database.read() as c:
            assert vpses.get(c, VPS) is None
    assert f"POST /vps/{VPS}/disable" in bench.registrar.told


def test_a_third_party_that_is_away_holds_up_its_groups_only(bench: Bench) -> None:
    """However many of them there are: the last of all goes on."""
    names = [f"AWAY_{n:02}" for n in range(25)]
    bench.apply(PAIR + ALONE + "".join(f'[{name}]\nkind = "password"\nrotate = "30d"\n' for name in names))
    bench.kind.away = set(names)
    order = bench.want("session", "JWT_SECRET", "SESSION_SECRET")
    row = bench.turn()
    assert "the third party is away" in row.last_error
    assert bench.state_of(order) == "listed"
    bench.kind.away = set()
    bench.turn()
    assert set(names) <= {name.partition("/")[2] for name in bench.listed()}


def test_what_can_not_be_ended_yet_holds_up_no_rotation(bench: Bench) -> None:
    """Its successor is listed, and so are all others; only an emergency waits for the former one's end."""
    former = bench.listed()[f"{VPS}/ALONE"]
    orders = {"ALONE": bench.want("ALONE", "ALONE")}
    bench.turn()
    with bench.database.write() as c:
        rotations.progress(c, orders["ALONE"], "arrived", time.time())
    bench.apply((PAIR + ALONE).replace('"password"\n', '"password"\nrollback_for = "0s"\n'))
    bench.kind.unending = True
    orders = {
        "session": bench.want("session", "JWT_SECRET", "SESSION_SECRET"),
        "ALONE": bench.want("ALONE", "ALONE"),
    }
    row = bench.turn()
    assert "the third party is away for ALONE" in row.last_error
    assert {bench.state_of(order) for order in orders.values()} == {"listed"}
    with bench.database.write() as c:
        rotations.progress(c, orders["ALONE"], "arrived", time.time())
    emergency = bench.want("ALONE", "ALONE", reason="compromised")
    bench.turn()
    assert bench.state_of(emergency) == "wanted"
    bench.kind.unending = False
    bench.turn()
    assert bench.state_of(emergency) == "listed"
    assert former not in bench.fake.secrets


def test_a_blueprint_that_is_not_taken_any_more(bench: Bench) -> None:
    """Of an older version, say: nothing is taken away, the worker lives, the VPS says what is wrong."""
    before = bench.listed()
    with bench.database.write() as c:
        c.execute(text("UPDATE blueprint SET text = '[JWT_SECRET]\nkind = \"from-the-future\"\n'"))
    row = bench.turn()
    assert "apply it again" in row.last_error
    assert bench.listed() == before
    assert bench.worker.defect == ""


def test_a_defect_in_one_look_is_one_vps_s_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """It is told without its words, and the worker goes on."""

    def wrong() -> None:
        raise RuntimeError("canary-of-a-defect")

    bench.kind.then = wrong
    bench.want("ALONE", "ALONE")
    row = bench.turn()
    assert "a defect of the program: RuntimeError at test_worker_faults.py" in row.last_error
    assert "canary-of-a-defect" not in caplog.text + row.last_error
    bench.kind.then = lambda: None
    assert bench.turn().last_error == ""


def test_a_worker_that_has_lost_its_lease_gives_a_third_party_nothing(bench: Bench) -> None:
    """Nor Barbican: what it had begun stays unmarked."""

    def stolen() -> None:
        with bench.database.write() as c:
            c.execute(update(schema.vps).values(lease_owner="another"))

    taken = list(bench.kind.taken)
    bench.worker = Worker(replace(bench.means, lease_s=1e-6), 1, 1.0)  # it asks whether it has it, always
    bench.kind.then = stolen
    bench.want("ALONE", "ALONE")
    before = bench.listed()
    bench.turn()
    assert bench.kind.taken == taken
    assert bench.listed() == before


@pytest.mark.nightly
def test_a_hundred_secrets(bench: Bench) -> None:
    """As many as a VPS can have are made and listed, with a lease that is shorter than the look."""
    many = "".join(f'[NAME_{n:03}]\nkind = "random"\nrotate = "30d"\n' for n in range(100))
    bench.apply(many)
    bench.worker = Worker(replace(bench.means, lease_s=4.0), 1, 1.0)
    began = time.monotonic()
    with bench.proxy.faulty(slow):
        row = bench.turn()
    assert time.monotonic() - began > 4.0
    assert row.last_error == ""
    assert len(bench.listed()) == 100


def slow(handler: Handler) -> None:
    """Answer a little later."""
    handler.released.wait(0.005)
    handler.give(handler.fetch())


def test_a_date_of_a_wrong_clock_is_brought_back(bench: Bench) -> None:
    """A VPS is not forgotten for a year because a clock was ahead of its time."""
    year = time.time() + 365 * 86400
    with bench.database.write() as c:
        c.execute(update(schema.vps).values(next_look=year, lease_owner="dead", lease_until=year))
    assert not bench.worker.run_one("test")
    bench.worker.unstick()
    assert bench.worker.run_one("test")


def test_an_emergency_locks_before_it_makes(bench: Bench) -> None:
    """Whoever has the former value is out first; the new one is not locked out after a crash."""
    taken = len(bench.kind.taken)
    bench.want("ALONE", "ALONE", reason="ordered")
    bench.turn()
    assert bench.kind.locked == []
    bench.kind.lockable = False
    emergency = bench.want("ALONE", "ALONE", reason="compromised")
    session = bench.want("session", "JWT_SECRET", "SESSION_SECRET", reason="compromised")
    row = bench.turn()
    assert row.last_error == "lock: the third party is away"
    assert (bench.state_of(emergency), bench.state_of(session)) == ("wanted", "listed")
    assert len(bench.kind.taken) == taken + 1, "a new value beside an open former one"
    bench.kind.lockable = True
    # it is made, and then nothing can be listed: the next look finds it there

    def unlisted(handler: Handler) -> None:
        if handler.command != "GET" and "/containers/" in handler.path:
            undone(handler)
        else:
            handler.give(handler.fetch())

    with bench.proxy.faulty(unlisted):
        bench.turn()
    assert bench.kind.locked == [("ALONE", taken + 1)]
    assert len(bench.kind.taken) == taken + 2
    bench.turn()
    assert bench.state_of(emergency) == "listed"
    assert bench.kind.locked == [("ALONE", taken + 1)]
    with bench.database.read() as c:
        said = [(row.action, row.name, row.rotation) for row in history.page(c, vps=VPS)]
    assert said.count(("secret.locked", "ALONE", emergency)) == 1


def test_a_vps_that_is_shut_out_is_locked_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Its next value may be hours away: no other lock, no other record, no alarm; each order locks anew."""
    with bench.database.write() as c:
        vpses.order(c, time.time(), VPS, "revoked", "test")
    bench.want("ALONE", "ALONE", reason="compromised")
    for _ in range(3):
        assert bench.turn().state == "revoked"
    assert len(bench.kind.locked) == 1
    with bench.database.write() as c:
        c.execute(update(schema.rotation).values(wanted_at=time.time() - 301))
    assert bench.worker.press() == 0
    assert "ALARM" not in caplog.text
    with bench.database.write() as c:
        rotations.give_up_emergencies(c, time.time(), VPS)
    again = bench.want("ALONE", "ALONE", reason="compromised")
    bench.turn()
    assert len(bench.kind.locked) == 2
    with bench.database.write() as c:
        vpses.order(c, time.time(), VPS, "present", "test")
    bench.turn()
    assert bench.state_of(again) == "listed"
    assert len(bench.kind.locked) == 2


def test_an_emergency_that_takes_too_long_is_an_alarm(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """And is tried again before all else."""
    bench.kind.away = {"ALONE"}
    bench.want("ALONE", "ALONE", reason="compromised")
    assert bench.worker.press() == 0
    bench.turn()
    with bench.database.write() as c:
        c.execute(update(schema.rotation).values(wanted_at=time.time() - 301))
        c.execute(update(schema.vps).values(next_look=1.0))
    caplog.set_level(logging.ERROR)
    assert bench.worker.press() == 1
    assert "ALARM: 1 emergency rotations are not done after 300 s" in caplog.text
    assert "the third party is away" in caplog.text
    assert bench.row().urgent == vpses.EMERGENCY
    caplog.clear()
    assert bench.worker.press() == 1
    assert caplog.text == ""  # once a minute


def test_what_is_due_soon_does_not_wait_for_the_next_sweep(bench: Bench) -> None:
    """A machine that joins is looked at each five seconds, though there is a sweep only once an hour."""
    worker = Worker(bench.means, 2, 3600.0)
    looked_at = bench.row().looked_at or 0.0
    # -5: it became due since it was looked for; with a lease somebody looks at it
    for pause, lease, idle in (
        (7200.0, 0.0, 3600.0),
        (60.0, 0.0, 60.0),
        (-5.0, 0.0, 1.0),
        (-5.0, 90.0, 90.0),
        (0.1, 0.0, 1.0),
        (3.0, 0.0, 3.0),
    ):
        with bench.database.write() as c:
            now = time.time()
            c.execute(update(schema.vps).values(next_look=now + pause, lease_until=now + lease))
        assert worker.idle_s() == pytest.approx(idle, abs=2.0)
    worker.start()
    try:
        until(lambda: (bench.row().looked_at or 0.0) > looked_at)
    finally:
        worker.end()


def test_what_a_new_vps_serves_first_is_looked_for(bench: Bench) -> None:
    """Each five seconds at first, then more and more rarely: one without ``acknowledge`` never says it."""
    for age, pause in ((0.0, 5.0), (600.0, 300.0), (86400.0, 3600.0)):
        with bench.database.write() as c:
            c.execute(update(schema.version).values(created=time.time() - age))
        assert bench.turn().state == "listed"
        assert bench.row().next_look - time.time() == pytest.approx(pause, abs=4.0)


def test_a_value_in_hand_is_stored_though_the_cloud_fails_once(bench: Bench) -> None:
    """Whoever gave it waits: it is tried again at once, and not given again by a person."""
    bench.apply('[SMTP_PASSWORD]\nkind = "external"\nrotate = "90d"\n')
    bench.turn()
    failures = [2]

    def failing(handler: Handler) -> None:
        if handler.command in {"PUT", "POST"} and failures[0]:
            failures[0] -= 1
            undone(handler)
        else:
            handler.give(handler.fetch())

    with bench.database.write() as c:
        c.execute(update(schema.vps).values(lease_until=0.0))
    with bench.proxy.faulty(failing):
        Giving(bench.means, bench.worker).give(VPS, SecretName("SMTP_PASSWORD"), Value(bytearray(b"given")))
    assert failures == [0]
    assert {name.rpartition("/")[2].partition("~")[0] for name in bench.listed()} == {"SMTP_PASSWORD"}


def test_a_refusal_is_of_a_look_that_went_well(bench: Bench) -> None:
    """Before a value is refused for want of a key the VPS is looked at: again, where the cloud fails once."""
    bench.apply('[SMTP_PASSWORD]\nkind = "external"\nrotate = "90d"\n')
    bench.turn()
    with bench.database.write() as c:
        c.execute(update(schema.vps).values(lease_until=0.0, sealing="required", state="waiting-for-key"))
    failures = [1]

    def failing(handler: Handler) -> None:
        if failures[0]:
            failures[0] -= 1
            undone(handler)
        else:
            handler.give(handler.fetch())

    with bench.proxy.faulty(failing), pytest.raises(NotJoinedError, match="it has to join first"):
        Giving(bench.means, bench.worker).give(VPS, SecretName("SMTP_PASSWORD"), Value(bytearray(b"given")))
    assert failures == [0]
