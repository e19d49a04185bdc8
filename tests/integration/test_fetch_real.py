"""The real fetch program on the real Keystone and Barbican: what it reads, what it costs, what is refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from agent.core.errors import Fault, Step
from agent.core.rotation import Unread
from deployer.cloud.accounts import RUNTIME_RULES
from deployer.cloud.secrets import DEMO_NAMES, Entry, generate_value
from lab.testbed.cloud import Account, Cloud
from lab.testbed.fakes.fetching import Fetch, Ran
from lab.testbed.fakes.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deployer.cloud.secrets import Vps


@dataclass(frozen=True)
class Made:
    """A VPS of a test's own: its id, what its secrets must be (as digests), and how to fetch them."""

    vps: Vps
    fetch: Fetch
    canaries: tuple[bytes, ...]


def make(
    cloud: Cloud,
    directory: Path,
    names: tuple[str, ...] = (),
    *,
    binary: bool = False,
    lists: bool = False,
    extra: str = "",
) -> Made:
    """Provision a VPS with random secrets and write its agent's configuration."""
    values = {name: secrets.token_bytes(2000) if binary else generate_value(name) for name in names}
    vps = cloud.vps(f"vps-{secrets.token_hex(4)}", values, lists=lists)
    path = directory / "agent.toml"
    path.write_text(cloud.configuration(vps, directory, extra))
    fetch = Fetch(path, vps.container_ref.rpartition("/")[2], vps.vps_id)
    credential = cloud.runtime[vps.vps_id].credential.secret.encode()
    return Made(vps, fetch, (credential, *values.values()))


def digests(ran: Ran) -> dict[str, str]:
    """Return name → digest of what was read."""
    return {
        str(facts.name): hashlib.sha256(ran.reply.payloads[version]).hexdigest()
        for version, facts in ran.reading.read.items()
    }


def eventually(make_one: Callable[[], Ran], wanted: Callable[[Ran], bool]) -> Ran:
    """Run until what was asked for holds; for what the services' own clocks decide."""
    end = time.monotonic() + 90
    while not wanted(ran := make_one()):
        assert time.monotonic() < end
    return ran


def in_seconds(seconds: float) -> str:
    """Return a time as both services take it."""
    at = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)
    return at.strftime("%Y-%m-%dT%H:%M:%S")


LISTS = "[fetch]\nlist_metadata = true\n"


@pytest.mark.parametrize(
    ("lists", "extra", "first_calls", "rotation_calls"),
    [(False, "", 15, 3), (True, LISTS, 9, 3), (False, LISTS, 17, 3)],
    ids=["one by one", "listed", "listing refused"],
)
def test_seven_secrets_and_what_they_cost(
    cloud: Cloud, tmp_path: Path, *, lists: bool, extra: str, first_calls: int, rotation_calls: int
) -> None:
    """First cycle: a login, and 2k + 1 or k + 2 calls to Barbican; quiet: exactly one; a rotation: three.

    A list that the account may not have costs two calls and a login more.
    """
    made = make(cloud, tmp_path, DEMO_NAMES, lists=lists, extra=extra)
    with (
        FaultProxy(cloud.auth_url) as keystone,
        FaultProxy(cloud.testbed.places.barbican_url) as barbican,
    ):
        text = made.fetch.config.read_text().replace(cloud.auth_url, keystone.url)
        made.fetch.config.write_text(text.replace("[app]", f'endpoint_override = "{barbican.url}"\n[app]'))
        first = made.fetch()
        assert set(digests(first).values()) == {
            hashlib.sha256(value).hexdigest() for value in made.canaries[1:]
        }
        assert sorted(digests(first)) == sorted(DEMO_NAMES)
        assert first.calls == {"keystone": len(keystone.seen), "barbican": len(barbican.seen)}
        # a login, and when its credential expires; a refusal costs another login
        assert len(keystone.seen) == (3 if extra and not lists else 2)
        assert len(barbican.seen) == first_calls
        assert first.reply.listed is (lists if extra else None)
        assert not first.leaks(made.canaries)

        keystone.seen.clear()
        barbican.seen.clear()
        known, state = frozenset(first.reading.read), first.reply.token_state
        quiet = made.fetch(known=known, token_state=state)
        assert keystone.seen == []
        assert barbican.seen == [f"GET /v1/containers/{made.fetch.container}"]
        assert quiet.reading.entries == first.reading.entries

        barbican.seen.clear()
        value = generate_value("JWT_SECRET")
        cloud.deployment.rotate(made.vps, {"JWT_SECRET": value})
        after = made.fetch(known=known, token_state=quiet.reply.token_state)
        assert digests(after) == {"JWT_SECRET": hashlib.sha256(value).hexdigest()}
        assert keystone.seen == []
        assert len(barbican.seen) == rotation_calls
        assert not after.leaks([*made.canaries, value])


def test_each_payload_can_be_followed_to_barbican(cloud: Cloud, tmp_path: Path) -> None:
    """By the id of its request: the journal has it with the version, Barbican's log with the path."""
    made = make(cloud, tmp_path, ("JWT_SECRET", "API_KEY"))
    ran = made.fetch()
    told = re.findall(rb"read ([A-Z_]+): version ([0-9a-f-]{36}), request (req-[0-9a-f-]{36})", ran.stderr)
    assert {(name.decode(), version.decode()) for name, version, _ in told} == {
        (entry.name, entry.version) for entry in ran.reading.entries
    }
    log = cloud.testbed.log("barbican").read_text()
    for _, version, request in told:
        lines = [line for line in log.splitlines() if request.decode() in line]
        assert any(f"/v1/secrets/{version.decode()}/payload" in line for line in lines)
    assert not ran.leaks(made.canaries)
    assert b": version" not in made.fetch(known=frozenset(ran.reading.read)).stderr


def test_bytes_arrive_as_they_are(cloud: Cloud, tmp_path: Path) -> None:
    """Binary, and white space at both ends."""
    made = make(cloud, tmp_path, ("BINARY",), binary=True)
    text = b"  line\r\nline\n\n"
    cloud.deployment.rotate(made.vps, {"TEXT": text})
    wanted = {"BINARY": made.canaries[1], "TEXT": text}
    assert digests(made.fetch()) == {
        name: hashlib.sha256(value).hexdigest() for name, value in wanted.items()
    }


def test_a_token_that_barbican_refuses_costs_one_login(cloud: Cloud, tmp_path: Path) -> None:
    """The adopted token is no good any more: one login, and the cycle goes on."""
    made = make(cloud, tmp_path)
    state = json.loads(made.fetch().reply.token_state)
    inner = json.loads(state["state"]) | {"auth_token": "gAAAAA" + secrets.token_hex(60)}
    forged = json.dumps(state | {"state": json.dumps(inner)}).encode()
    ran = made.fetch(token_state=forged)
    assert ran.reading.entries == ()
    assert ran.calls == {"keystone": 1, "barbican": 2}


def test_a_wrong_credential(cloud: Cloud, tmp_path: Path) -> None:
    """Keystone refuses it: access is taken away, until somebody gives another."""
    made = make(cloud, tmp_path)
    (tmp_path / "keystone-credential").write_text(canary := secrets.token_hex(16))
    ran = made.fetch()
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.KEYSTONE, Fault.DENIED, 401)
    assert not ran.leaks([canary.encode()])


def test_a_deleted_credential(cloud: Cloud, tmp_path: Path) -> None:
    """Keystone answers 404 at login, which is no missing secret."""
    made = make(cloud, tmp_path)
    account = cloud.runtime[made.vps.vps_id]
    session = cloud.session_of(account.user)
    cloud.accounts.delete_application_credential(account.user, session, account.credential)
    ran = made.fetch()
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.KEYSTONE, Fault.DENIED, 404)
    assert "deleted" in ran.failure.advice


def test_a_disabled_user(cloud: Cloud, tmp_path: Path) -> None:
    """The account itself is shut."""
    made = make(cloud, tmp_path)
    cloud.accounts.disable(cloud.runtime[made.vps.vps_id].user)
    ran = made.fetch()
    assert (ran.failure.step, ran.failure.fault) == (Step.KEYSTONE, Fault.DENIED)


def test_a_credential_that_expires(cloud: Cloud, tmp_path: Path) -> None:
    """It logs in until its time, and is refused after."""
    made = make(cloud, tmp_path)
    account = cloud.runtime[made.vps.vps_id]
    session = cloud.session_of(account.user)
    short = cloud.accounts.application_credential(
        account.user, session, "short", RUNTIME_RULES, in_seconds(4)
    )
    cloud.runtime[made.vps.vps_id] = Account(account.user, short)
    made.fetch.config.write_text(cloud.configuration(made.vps, tmp_path))
    ran = eventually(made.fetch, lambda ran: ran.reply.failure is not None)
    assert (ran.failure.step, ran.failure.fault) == (Step.KEYSTONE, Fault.DENIED)
    assert "expired" in ran.failure.advice


def test_access_that_is_taken_away_and_given_back(cloud: Cloud, tmp_path: Path) -> None:
    """An ACL acts at once, also on a token that is still good."""
    made = make(cloud, tmp_path, ("A",))
    state = made.fetch().reply.token_state
    cloud.deployment.revoke(made.vps)
    ran = made.fetch(token_state=state)
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.PERMISSION, Fault.DENIED, 403)
    cloud.deployment.restore(made.vps)
    assert list(digests(made.fetch(token_state=state))) == ["A"]


def test_the_container_of_another_vps_or_of_nobody(cloud: Cloud, tmp_path: Path) -> None:
    """Both are refused by Barbican; the other's names are not even seen."""
    made = make(cloud, tmp_path, ("A",))
    (tmp_path / "other").mkdir()
    other = make(cloud, tmp_path / "other", ("A",))
    text = made.fetch.config.read_text()
    for container in (other.fetch.container, str(uuid.uuid4())):
        made.fetch.config.write_text(text.replace(made.fetch.container, container))
        ran = Fetch(made.fetch.config, container, made.vps.vps_id)()
        assert (ran.failure.step, ran.failure.fault) == (Step.PERMISSION, Fault.DENIED)
        assert ran.failure.status in {403, 404}
        assert not ran.reply.rejected


def test_an_empty_container(cloud: Cloud, tmp_path: Path) -> None:
    """It is an answer like any other."""
    ran = make(cloud, tmp_path).fetch()
    assert ran.reading.entries == ()
    assert ran.calls == {"keystone": 2, "barbican": 1}


def test_a_secret_that_expires(cloud: Cloud, tmp_path: Path) -> None:
    """It stays listed, and its payload is absent."""
    made = make(cloud, tmp_path)
    cloud.deployment.rotate(made.vps, {"A": generate_value("A")}, in_seconds(4))
    first = made.fetch()
    for facts in first.reading.read.values():
        assert facts.expires is not None
        assert abs(facts.expires - facts.created) < 10
    ran = eventually(made.fetch, lambda ran: not ran.reading.read)
    assert list(ran.reading.unread.values()) == [Unread.ABSENT]


def test_a_secret_whose_payload_is_not_written_yet(cloud: Cloud, tmp_path: Path) -> None:
    """Whoever deploys died between two steps."""
    made = make(cloud, tmp_path, ("A",))
    full = f"{made.vps.vps_id}/B"
    body = {"name": full, "secret_type": "opaque"}
    ref = cloud.deployment._call("POST", "/secrets", "make", json=body)["secret_ref"]
    cloud.deployment._grant("/secrets/" + ref.rpartition("/")[2], made.vps)
    cloud.deployment._entry("POST", made.vps, Entry(full, ref), "add")
    ran = made.fetch()
    assert list(digests(ran)) == ["A"]
    assert list(ran.reading.unread.values()) == [Unread.ABSENT]


def test_entries_of_another_vps(cloud: Cloud, tmp_path: Path) -> None:
    """By their prefix they are not asked for; under our prefix Barbican refuses them."""
    made = make(cloud, tmp_path, ("A",))
    (tmp_path / "other").mkdir()
    other = make(cloud, tmp_path / "other", ("A",))
    theirs = cloud.deployment.entries(other.vps)[0]
    cloud.deployment._entry("POST", made.vps, theirs, "add")
    disguised = Entry(f"{made.vps.vps_id}/B", theirs.secret_ref)
    cloud.deployment._entry("POST", made.vps, disguised, "add")
    ran = made.fetch()
    assert list(digests(ran)) == ["A"]
    assert ran.reply.rejected == (theirs.name,)
    assert list(ran.reading.unread.values()) == [Unread.DENIED]
    assert not ran.leaks(other.canaries)


def test_a_double_name_during_a_rotation(cloud: Cloud, tmp_path: Path) -> None:
    """In every state between the first new entry and the last old one a name is double."""
    made = make(cloud, tmp_path, ("A", "B"))
    first = made.fetch()
    known = frozenset(first.reading.read)
    for step in cloud.deployment.rotation_steps(made.vps, {"A": b"a", "B": b"b"}):
        if step.startswith("added"):
            ran = made.fetch(known=known, reads_doubles=False, token_state=first.reply.token_state)
            assert ran.calls == {"keystone": 0, "barbican": 1}
            assert not ran.reading.read
    after = made.fetch(known=known, reads_doubles=False, token_state=first.reply.token_state)
    assert sorted(digests(after)) == ["A", "B"]


@pytest.fixture(scope="module")
def own_cloud() -> Iterator[Cloud]:
    """A cloud that may be broken."""
    with Cloud() as made:
        yield made


def test_services_that_are_down_or_hang(own_cloud: Cloud, tmp_path: Path) -> None:
    """The step and the address are told; with a token Keystone is not needed."""
    made = make(own_cloud, tmp_path, ("A",))
    first = made.fetch()
    state, known = first.reply.token_state, frozenset(first.reading.read)
    own_cloud.testbed.stop("keystone")
    assert made.fetch(token_state=state, known=known).reading.entries == first.reading.entries
    down = made.fetch()
    assert (down.failure.step, down.failure.fault) == (Step.CONNECTION, Fault.TRANSIENT)
    assert "/auth/tokens" in down.failure.tried
    own_cloud.testbed.restart("keystone")
    own_cloud.testbed.pause("barbican")
    hanging = made.fetch(timeout=10, token_state=state)
    assert (hanging.failure.step, hanging.failure.fault) == (Step.CONNECTION, Fault.TRANSIENT)
    assert "/v1/containers/" in hanging.failure.tried
    own_cloud.testbed.resume("barbican")
    own_cloud.testbed.stop("barbican")
    assert "ECONNREFUSED" in made.fetch(token_state=state).failure.advice
