"""The worker on the real Keystone and Barbican: provision, rotate, roll back, lose, revoke, retire."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from common import sealing, sealing_key
from common.acknowledgement import consumer_of, served_digest
from common.names import SecretName, Version
from deployer.api.metrics import Metrics
from deployer.cloud.barbican import Barbican
from deployer.cloud.errors import CloudError
from deployer.config.zones import zone
from deployer.core import blueprint, planning
from deployer.database import blueprints, rotations, schema, secrets, vpses
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.kinds.external import External
from deployer.kinds.kind import KindError
from deployer.kinds.password import Password
from deployer.kinds.random import Random
from deployer.kinds.value import Value
from deployer.worker import joining
from deployer.worker.giving import Giving, NotJoinedError
from deployer.worker.loop import Worker
from deployer.worker.means import Means

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystoneauth1.session import Session

    from common.sealed import Header
    from deployer.database.engine import Database
    from deployer.database.vpses import VpsRow
    from lab.testbed.cloud import Cloud

TEXT = """
[JWT_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[SESSION_SECRET]
kind = "random"
rotate = "30d"
group = "session"
[ADMIN_PASSWORD]
kind = "password"
rotate = "never"
[SMTP_PASSWORD]
kind = "external"
rotate = "180d"
"""


class Users:
    """The users of the real Keystone, without the claim, which is the registrar's."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self.disabled: set[str] = set()
        self.away = False
        """The registrar does not answer."""
        self.session: Session
        """The VPS's own, once it has a user."""

    def make(self, vps_id: str) -> str:
        """Make the user, with its role."""
        user = self._cloud.accounts.runtime(vps_id)
        self.session = self._cloud.session_of(user)
        self.user_id = user.id
        return user.id

    def confirm(self, vps_id: str, user_id: str) -> None:
        """Make sure that it is the one."""
        assert (bool(vps_id), user_id) == (True, self.user_id)

    def claimed(self, vps_id: str) -> bool:
        """It has its role from the beginning."""
        if self.away:
            raise CloudError("ask whether it was claimed", "the registrar does not answer", retriable=True)
        return bool(vps_id)

    def disable(self, vps_id: str) -> str:
        """Note it."""
        if self.away:
            raise CloudError("disable the user", "the registrar does not answer", retriable=True)
        self.disabled.add(vps_id)
        return ""

    def enable(self, vps_id: str) -> None:
        """Note it."""
        self.disabled.discard(vps_id)

    def delete(self, vps_id: str) -> None:
        """Note it."""
        self.disabled.add(vps_id)


@dataclass
class Deployer:
    """A worker that takes a turn when it is told to, and what it works with."""

    cloud: Cloud
    database: Database
    means: Means
    worker: Worker
    users: Users
    vps_id: str

    def turn(self) -> VpsRow:
        """Look at the VPS once; return it afterwards."""
        with self.database.write() as c:
            vpses.wake(c, self.vps_id)
        assert self.worker.run_one("test")
        return self.row()

    def row(self) -> VpsRow:
        """Return the VPS as the database has it."""
        with self.database.read() as c:
            row = vpses.get(c, self.vps_id)
        assert row is not None
        return row

    def remarks(self) -> dict[str, str]:
        """Return what a person has to do, by name."""
        with self.database.read() as c:
            return {row.name: row.remark for row in secrets.of(c, self.vps_id) if row.remark}

    def listed(self) -> dict[str, str]:
        """Return the container's entries as Barbican has them."""
        found = self.means.barbican.container(self.vps_id, Version(self.row().container))
        return {
            f"{entry.name}~{entry.k}" if entry.k else entry.name: entry.version for entry in found.entries
        }

    def want(
        self, group: str, names: list[str], reason: str, targets: Mapping[str, str] | None = None
    ) -> str:
        """Order a rotation."""
        with self.database.write() as c:
            return rotations.want(
                c, time.time(), self.vps_id, group, names, reason=reason, asked_by="test", targets=targets
            )

    def state_of(self, rotation: str) -> str:
        """Return how far a rotation is."""
        with self.database.read() as c:
            row = rotations.get(c, rotation)
        assert row is not None
        return row.state

    def acknowledge(self) -> None:
        """Say that the agent serves what is listed, as it does itself."""
        versions = {SecretName(name.partition("~")[0]): Version(v) for name, v in self.listed().items()}
        url = f"{self.cloud.testbed.places.barbican_url}/v1/containers/{self.row().container}/consumers"
        assert (
            self.users.session.request(url, "POST", json=consumer_of(served_digest(versions))).status_code
            == 200
        )


@pytest.fixture
def deployer(cloud: Cloud, tmp_path: Path) -> Iterator[Deployer]:
    """A deployer with a VPS that is wished, and nothing done yet."""
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    vps_id = f"vps-{uuid.uuid4().hex[:12]}"
    with database.write() as c:
        blueprints.put(c, time.time(), "backend", TEXT, "test")
        vpses.wish(c, time.time(), vps_id, "backend", labels={}, actor="test")
    external = External()
    users = Users(cloud)
    means = Means(
        database=database,
        barbican=Barbican(cloud.deployer_session, cloud.testbed.places.barbican_url),
        registrar=users,  # type: ignore[arg-type]
        kinds={kind.name: kind for kind in (Random(), Password(), external)},
        external=external,
        parse=lambda name, text: blueprint.parse(text.encode(), Path(f"{name}.toml"), zone),
        touch=lambda _: None,
        lease_s=60.0,
        interval_s=3600.0,
    )
    yield Deployer(cloud, database, means, Worker(means, 1, 1.0), users, vps_id)
    database.close()


def test_a_wish_becomes_a_container(deployer: Deployer) -> None:
    """All that can be made is listed, in one turn; what a person has to give is not."""
    row = deployer.turn()
    assert (row.last_error, row.failures) == ("", 0)
    assert deployer.listed().keys() == {"JWT_SECRET", "SESSION_SECRET", "ADMIN_PASSWORD"}
    assert row.state == "listed"
    assert deployer.remarks() == {"SMTP_PASSWORD": planning.GIVE}
    before = deployer.listed()
    deployer.turn()
    assert deployer.listed() == before


def test_the_application_reads_what_was_made(deployer: Deployer) -> None:
    """The VPS's user reads the payload, which the deployer can't."""
    deployer.turn()
    version = deployer.listed()["JWT_SECRET"]
    url = f"{deployer.cloud.testbed.places.barbican_url}/v1/secrets/{version}/payload"
    session = deployer.users.session
    answer = session.request(url, "GET", headers={"Accept": "application/octet-stream"}, raise_exc=False)
    assert (answer.status_code, len(answer.content)) == (200, 43)
    refused = deployer.cloud.deployer_session.request(url, "GET", raise_exc=False)
    assert refused.status_code in {401, 403, 406}


def test_a_rotation_is_listed_and_arrives(deployer: Deployer) -> None:
    """Both of a group change; the others stay; it has arrived when the agent says so."""
    deployer.turn()
    before = deployer.listed()
    order = deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "ordered")
    deployer.turn()
    after = deployer.listed()
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"JWT_SECRET", "SESSION_SECRET"}
    assert deployer.state_of(order) == "listed"
    deployer.acknowledge()
    row = deployer.turn()
    assert (row.state, deployer.state_of(order)) == ("serving", "arrived")


def test_a_rotation_is_rolled_back(deployer: Deployer) -> None:
    """The former versions are listed again under another K, and the next rotation goes on from there."""
    deployer.turn()
    first = deployer.listed()
    names = ["JWT_SECRET", "SESSION_SECRET"]
    deployer.acknowledge()
    for reason in ("ordered", "rollback", "ordered"):
        targets = {name: first[name] for name in names} if reason == "rollback" else {}
        order = deployer.want("session", names, reason, targets=targets)
        deployer.turn()
        deployer.acknowledge()
        deployer.turn()
        assert deployer.state_of(order) == "arrived"
        bare = {name.partition("~")[0]: version for name, version in deployer.listed().items()}
        if reason == "rollback":
            assert {name: bare[name] for name in names} == targets
    assert not {bare[name] for name in names} & set(first.values())


def test_a_compromised_version_is_deleted_at_once(deployer: Deployer) -> None:
    """What was replaced can't be listed again: it is gone."""
    deployer.turn()
    before = deployer.listed()
    deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "compromised")
    deployer.turn()
    for name in ("JWT_SECRET", "SESSION_SECRET"):
        made = deployer.means.barbican.made(deployer.vps_id, SecretName(name))
        assert [one.version for one in made] == [deployer.listed()[name]]
        assert before[name] != deployer.listed()[name]


def test_a_value_that_a_person_gives(deployer: Deployer) -> None:
    """It is stored and listed, and waits nowhere afterwards."""
    deployer.turn()
    name = SecretName("SMTP_PASSWORD")
    deployer.means.external.give(deployer.vps_id, name, Value(b"smtp-canary-1f0c"))
    deployer.want(name, [name], "ordered")
    deployer.turn()
    assert name in deployer.listed()
    assert deployer.remarks() == {}
    assert not deployer.means.external.waits(deployer.vps_id, name)


@pytest.mark.parametrize("name", ["JWT_SECRET", "ADMIN_PASSWORD"])
def test_a_deleted_secret(deployer: Deployer, name: str) -> None:
    """What rotates is made anew; what old data may need is not: that would hide the loss."""
    deployer.turn()
    deployer.means.barbican.delete_secret(Version(deployer.listed()[name]))
    deployer.turn()
    assert (name in deployer.listed()) == (name == "JWT_SECRET")
    assert deployer.remarks().get(name, "") == ("" if name == "JWT_SECRET" else planning.DECIDE)


def test_a_deleted_container_comes_back_with_the_same_versions(deployer: Deployer) -> None:
    """Its secrets are there still."""
    deployer.turn()
    before = deployer.listed()
    former = deployer.row().container
    deployer.means.barbican.delete_container(Version(former))
    deployer.turn()
    assert deployer.listed() == before
    assert deployer.row().container != former


def test_revoked_although_the_registrar_is_away(deployer: Deployer) -> None:
    """The ACLs name nobody at once; that the user is not disabled yet is a failure, and tried again."""
    deployer.turn()
    url = f"{deployer.cloud.testbed.places.barbican_url}/v1/containers/{deployer.row().container}"
    deployer.users.away = True
    with deployer.database.write() as c:
        vpses.order(c, time.time(), deployer.vps_id, "revoked", "test")
    row = deployer.turn()
    assert deployer.users.session.request(url, "GET", raise_exc=False).status_code == 403
    assert (row.granted_to, row.failures, row.state) == ("", 1, "listed")
    assert "registrar" in row.last_error
    deployer.users.away = False
    row = deployer.turn()
    assert (row.failures, row.state) == (0, "revoked")
    assert deployer.vps_id in deployer.users.disabled


def test_a_former_machine_is_shut_out_although_the_registrar_is_away(deployer: Deployer) -> None:
    """Another user has taken its place: it reads neither the container nor a secret, before all else."""
    first = deployer.turn()
    url = f"{deployer.cloud.testbed.places.barbican_url}/v1"
    version = next(iter(deployer.listed().values()))
    paths = (f"containers/{first.container}", f"secrets/{version}")
    assert [deployer.users.session.request(f"{url}/{path}", "GET").status_code for path in paths] == [200] * 2
    former = deployer.users.session
    deployer.users.make(f"{deployer.vps_id}-anew")
    with deployer.database.write() as c:
        held = vpses.claim(c, time.time(), deployer.vps_id, "api", 60.0)
        assert held is not None
        vpses.claimed_again(
            c, time.time(), held.id, "api", user_id=deployer.users.user_id, state=joining.JOINING
        )
    deployer.users.away = True
    row = deployer.turn()
    assert "registrar" in row.last_error
    refused = [former.request(f"{url}/{path}", "GET", raise_exc=False).status_code for path in paths]
    assert refused == [403, 403]
    deployer.users.away = False
    assert deployer.turn().granted_to == deployer.users.user_id
    assert [deployer.users.session.request(f"{url}/{path}", "GET").status_code for path in paths] == [200] * 2


def test_revoked_again_after_a_giving_back_that_broke_off(deployer: Deployer) -> None:
    """The user was let in, and Barbican was away then: the next revocation disables it all the same."""
    deployer.turn()
    for wanted in ("revoked", "present"):
        with deployer.database.write() as c:
            vpses.order(c, time.time(), deployer.vps_id, wanted, "test")
        if wanted == "revoked":
            assert deployer.turn().state == "revoked"
    deployer.users.enable(deployer.vps_id)  # as far as it came
    with deployer.database.write() as c:
        vpses.order(c, time.time(), deployer.vps_id, "revoked", "test")
    row = deployer.turn()
    assert (row.state, row.granted_to, row.failures) == ("revoked", "", 0)
    assert deployer.vps_id in deployer.users.disabled


def test_revoked_although_barbican_is_away(deployer: Deployer) -> None:
    """The user is disabled first; the ACLs follow when it is back."""
    deployer.turn()
    with deployer.database.write() as c:
        vpses.order(c, time.time(), deployer.vps_id, "revoked", "test")
    deployer.cloud.testbed.stop("barbican")
    try:
        row = deployer.turn()
    finally:
        deployer.cloud.testbed.restart("barbican")
    assert deployer.vps_id in deployer.users.disabled
    assert (row.failures, row.granted_to != "") == (1, True)
    row = deployer.turn()
    assert (row.failures, row.granted_to, row.state) == (0, "", "revoked")


def test_revoked_given_back_retired(deployer: Deployer) -> None:
    """Nobody reads; he reads again; nothing is left."""
    deployer.turn()
    session = deployer.users.session
    container = deployer.row().container
    url = f"{deployer.cloud.testbed.places.barbican_url}/v1/containers/{container}"
    for wanted, status in (("revoked", 403), ("present", 200), ("retired", 404)):
        with deployer.database.write() as c:
            vpses.order(c, time.time(), deployer.vps_id, wanted, "test")
        assert deployer.worker.run_one("test")
        assert session.request(url, "GET", raise_exc=False).status_code == status
    with deployer.database.read() as c:
        assert vpses.get(c, deployer.vps_id) is None
        assert secrets.of(c, deployer.vps_id) == ()


class SealedVps:
    """The VPS of a deployer, with keys that it registers itself, and what it makes of its secrets."""

    def __init__(self, deployer: Deployer) -> None:
        self.deployer = deployer
        self.private, self.public = sealing.new_key()
        self._url = f"{deployer.cloud.testbed.places.barbican_url}/v1"
        with deployer.database.write() as c:
            vpses.wish(
                c, time.time(), deployer.vps_id, "backend", labels={}, actor="test", sealing="required"
            )

    def register(self, public: bytes) -> None:
        """Announce a key in the container, as the VPS does when it joins."""
        url = f"{self._url}/containers/{self.deployer.row().container}/consumers"
        consumer = sealing_key.announcement_of(public)
        assert self.deployer.users.session.request(url, "POST", json=consumer).status_code == 200

    def read(self) -> dict[str, tuple[bytes, Header]]:
        """Return what the VPS opens of what is listed, as its user reads it; nothing is plain."""
        container = f"{self._url}/containers/{self.deployer.row().container}"
        assert self.deployer.users.session.request(container, "GET").status_code == 200
        found = {}
        for entry, version in self.deployer.listed().items():
            name = entry.partition("~")[0]
            answer = self.deployer.users.session.request(
                f"{self._url}/secrets/{version}/payload",
                "GET",
                headers={"Accept": "application/octet-stream"},
            )
            found[name] = sealing.unseal(answer.content, (self.private,), self.deployer.vps_id, name)
        return found


def test_a_claim_without_a_key_is_an_alarm(deployer: Deployer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else may have used the user data: the user is shut out, and list and metric say so."""
    SealedVps(deployer)
    assert deployer.turn().state == "waiting-for-key"
    monkeypatch.setattr(joining, "WITHIN_S", 0.0)
    row = deployer.turn()
    assert (row.state, row.failures, deployer.listed()) == ("claimed-without-key", 1, {})
    assert row.last_error.startswith("join: ALARM: claimed 0 minutes ago, and no key has come")
    assert "its user is disabled" in row.last_error
    assert deployer.users.disabled == {row.id}
    exposition = Metrics(()).exposition
    with deployer.means.database.read() as c:
        assert "vps_secrets_deployer_vps_claimed_without_key 1.0" in exposition(c, time.time())
    assert deployer.turn().failures == 2


def test_nothing_is_made_before_the_key_and_all_for_it_after(deployer: Deployer) -> None:
    """The container is there, empty, so that the VPS can register; then everything is sealed to its key."""
    vps = SealedVps(deployer)
    for _ in range(2):
        row = deployer.turn()
        assert (row.state, row.last_error, deployer.listed()) == ("waiting-for-key", "", {})
    assert not any(deployer.means.barbican.made(row.id, SecretName(name)) for name in ("JWT_SECRET", "ADMIN"))
    vps.register(vps.public)
    assert deployer.turn().state == "listed"
    first = vps.read()
    assert first.keys() == {"JWT_SECRET", "SESSION_SECRET", "ADMIN_PASSWORD"}
    assert len(first["JWT_SECRET"][0]) == 43
    order = deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "ordered")
    deployer.turn()
    assert deployer.state_of(order) == "listed"
    second = vps.read()
    for name in ("JWT_SECRET", "SESSION_SECRET"):
        assert second[name][0] != first[name][0]
        assert second[name][1].sequence > first[name][1].sequence == second[name][1].floor
    deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "compromised")
    deployer.turn()
    third = vps.read()["JWT_SECRET"][1]
    assert third.floor == third.sequence > second["JWT_SECRET"][1].sequence


def test_the_place_in_the_order_comes_from_barbican(deployer: Deployer) -> None:
    """A lost database, and a clock that was set back, change nothing."""
    vps = SealedVps(deployer)
    deployer.turn()
    vps.register(vps.public)
    deployer.turn()
    before = vps.read()["JWT_SECRET"][1].sequence
    with deployer.database.write() as c:
        c.execute(schema.version.delete())
    back = time.time() - 1e6
    deployer.worker = Worker(replace(deployer.means, now=lambda: back), 1, 1.0)
    deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "ordered")
    deployer.turn()
    assert vps.read()["JWT_SECRET"][1].sequence == before + 1


def test_a_second_key_is_an_alarm_and_stops_deliveries(deployer: Deployer) -> None:
    """Whenever it comes; when it is gone, what was ordered meanwhile is delivered."""
    vps = SealedVps(deployer)
    deployer.turn()
    thief = sealing.new_key()[1]
    vps.register(thief)
    vps.register(vps.public)
    row = deployer.turn()
    assert (row.state, row.failures, deployer.listed()) == ("two-keys", 1, {})
    assert "more than one key" in row.last_error
    url = sealing_key.announcement_of(thief)["URL"]
    deployer.means.barbican.delete_consumer(row.id, Version(row.container), url)
    assert deployer.turn().state == "listed"
    before = deployer.listed()
    vps.register(thief)
    order = deployer.want("session", ["JWT_SECRET", "SESSION_SECRET"], "ordered")
    row = deployer.turn()
    assert (row.state, deployer.state_of(order), deployer.listed()) == ("two-keys", "wanted", before)
    deployer.means.barbican.delete_consumer(row.id, Version(row.container), url)
    row = deployer.turn()
    assert (row.last_error, deployer.state_of(order)) == ("", "listed")
    assert vps.read().keys() == before.keys()


def test_what_is_sealed_to_a_key_of_before_is_made_anew(deployer: Deployer) -> None:
    """A VPS that was made anew: but for what old data depends on, of which a person has to know."""
    vps = SealedVps(deployer)
    deployer.turn()
    vps.register(vps.public)
    deployer.turn()
    before = deployer.listed()
    row = deployer.row()
    url = sealing_key.announcement_of(vps.public)["URL"]
    deployer.means.barbican.delete_consumer(row.id, Version(row.container), url)
    assert deployer.turn().state == "waiting-for-key"
    vps.private, vps.public = sealing.new_key()
    vps.register(vps.public)
    row = deployer.turn()  # a thief could have done that with its credential
    assert (row.state, row.failures, deployer.listed()) == ("two-keys", 1, before)
    assert "another key is registered" in row.last_error
    with deployer.database.write() as c:
        joining.claimed(c, time.time(), row.id)
    assert deployer.turn().failures == 0
    assert deployer.listed()["ADMIN_PASSWORD"] == before["ADMIN_PASSWORD"]  # rotate = "never"
    with deployer.database.write() as c:
        c.execute(schema.secret.delete())
    url = f"{deployer.cloud.testbed.places.barbican_url}/v1/secrets/"
    session = deployer.users.session
    sent = {"Accept": "application/octet-stream"}
    for entry, version in deployer.listed().items():
        if entry.startswith("ADMIN"):
            continue
        payload = session.request(f"{url}{version}/payload", "GET", headers=sent).content
        name = entry.partition("~")[0]
        assert sealing.unseal(payload, (vps.private,), row.id, name)[0]


def test_a_value_too_long_to_be_sealed_is_refused_before_anything_is_made(deployer: Deployer) -> None:
    """And one that fits is delivered; off, it is as before."""
    vps = SealedVps(deployer)
    deployer.turn()
    giving = Giving(deployer.means, deployer.worker)
    with pytest.raises(NotJoinedError, match="it has to join first"):
        giving.give(deployer.vps_id, SecretName("SMTP_PASSWORD"), Value(b"early"))
    vps.register(vps.public)  # whoever gives at once need not wait for the next look
    with pytest.raises(KindError, match=r"147\d\d are the most"):
        giving.give(deployer.vps_id, SecretName("SMTP_PASSWORD"), Value(b"x" * 15_000))
    assert not deployer.means.barbican.made(deployer.vps_id, SecretName("SMTP_PASSWORD"))
    giving.give(deployer.vps_id, SecretName("SMTP_PASSWORD"), Value(b"y" * 14_700))
    assert vps.read()["SMTP_PASSWORD"][0] == b"y" * 14_700
