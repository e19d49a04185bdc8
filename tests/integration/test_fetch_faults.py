"""The real fetch program against a cloud with faults: each gets its step, its fault and a useful text.

No credential, token or payload may be in its journal or in the header of its reply, whatever happens.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from agent.core.errors import Fault, Step
from agent.core.rotation import Entry, Unread
from common.names import SecretName, Version
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud, FakeSecret, Handler
from lab.testbed.fakes.fetching import Fetch, configure
from lab.testbed.fakes.tls import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.testbed.fakes.handler import AnsweringHandler

TRANSIENT, DENIED = Fault.TRANSIENT, Fault.DENIED


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud."""
    with FakeCloud() as made:
        yield made


def test_a_healthy_cloud_is_read(cloud: FakeCloud, tmp_path: Path) -> None:
    """Two secrets: a login and 2k + 1 requests; then a quiet cycle is exactly one."""
    made = [cloud.add(f"{VPS}/JWT_SECRET"), cloud.add(f"{VPS}/DATABASE_URL", payload=b"\0 binary \xff\n")]
    fetch = configure(cloud, tmp_path)
    first = fetch()
    assert first.status == 0
    assert set(first.reading.entries) == {
        Entry(SecretName("JWT_SECRET"), Version(made[0].version)),
        Entry(SecretName("DATABASE_URL"), Version(made[1].version)),
    }
    for secret in made:
        assert (first.reply.payloads[Version(secret.version)] == secret.payload) is True
        assert first.reading.read[Version(secret.version)].created == 1793491200.0
    assert first.calls == {"keystone": 1, "barbican": len(cloud.paths("barbican"))}
    assert len(cloud.paths("barbican")) == 5
    assert not first.leaks(cloud.canaries)
    assert first.reply.timings["start"] > 0

    cloud.requests.clear()
    known = frozenset(first.reading.read)
    quiet = fetch(known=known, token_state=first.reply.token_state)
    assert len(cloud.requests) == 1
    assert quiet.reading.entries == first.reading.entries
    assert quiet.calls == {"keystone": 0, "barbican": 1}
    assert quiet.reply.token_state == first.reply.token_state
    assert not quiet.reading.read


def test_a_token_that_ran_out_costs_one_login(cloud: FakeCloud, tmp_path: Path) -> None:
    """Barbican refuses the adopted token, Keystone gives another."""
    fetch = configure(cloud, tmp_path)
    state = fetch().reply.token_state
    cloud.token = "0" * 32
    cloud.requests.clear()
    ran = fetch(token_state=state)
    assert ran.reading.entries == ()
    assert [service for service, *_ in cloud.requests] == ["barbican", "keystone", "barbican"]


@pytest.mark.parametrize(("status", "fault"), [(401, DENIED), (404, DENIED), (503, TRANSIENT)])
def test_a_token_that_ran_out_and_no_new_one(
    cloud: FakeCloud, tmp_path: Path, status: int, fault: Fault
) -> None:
    """The credential is gone, or Keystone is away, when Barbican refuses the adopted token."""
    fetch = configure(cloud, tmp_path)
    state = fetch().reply.token_state
    cloud.faults["/containers/"] = faults.unauthorized
    cloud.faults["keystone"] = faults.refused(status)
    ran = fetch(token_state=state)
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (Step.KEYSTONE, fault, status)


@pytest.mark.parametrize("state", [b"x", b"{}", b"[]", b'{"credential": null, "state": "{}"}'])
def test_a_token_state_that_is_none_costs_one_login(cloud: FakeCloud, tmp_path: Path, state: bytes) -> None:
    """What serve sends back is not trusted to be well-formed."""
    ran = configure(cloud, tmp_path)(token_state=state)
    assert ran.calls == {"keystone": 1, "barbican": 1}


def test_a_token_of_another_credential_is_not_used(cloud: FakeCloud, tmp_path: Path) -> None:
    """After the credential was changed in the configuration the former token is of no use."""
    state = configure(cloud, tmp_path)().reply.token_state
    cloud.requests.clear()
    ran = configure(cloud, tmp_path, application_credential_id="fedcba")(token_state=state)
    assert ran.calls == {"keystone": 1, "barbican": 1}


Case = tuple[str, "Callable[[AnsweringHandler], None]", Step, Fault, int | None]
CASES: dict[str, Case] = {
    "keystone 401": ("keystone", faults.refused(401), Step.KEYSTONE, DENIED, 401),
    "keystone 403": ("keystone", faults.refused(403), Step.KEYSTONE, TRANSIENT, 403),
    "keystone 404": ("keystone", faults.refused(404), Step.KEYSTONE, DENIED, 404),
    "keystone 404 page": ("keystone", faults.page(404), Step.KEYSTONE, TRANSIENT, 404),
    "keystone 409": ("keystone", faults.refused(409), Step.KEYSTONE, TRANSIENT, 409),
    "keystone 429": ("keystone", faults.refused(429, Retry_After="7"), Step.KEYSTONE, TRANSIENT, 429),
    "keystone 500": ("keystone", faults.refused(500), Step.KEYSTONE, TRANSIENT, 500),
    "keystone 503": ("keystone", faults.page(503, Retry_After="7"), Step.KEYSTONE, TRANSIENT, 503),
    "keystone HTML": ("keystone", faults.page(200), Step.KEYSTONE, TRANSIENT, 200),
    "keystone {}": ("keystone", faults.content(b"{}"), Step.KEYSTONE, TRANSIENT, 201),
    "keystone token": ("keystone", faults.content(b'{"token": {}}'), Step.KEYSTONE, TRANSIENT, 201),
    "keystone list": ("keystone", faults.content(b"[1]"), Step.KEYSTONE, TRANSIENT, 201),
    "keystone truncated": ("keystone", faults.truncated, Step.KEYSTONE, TRANSIENT, 201),
    "keystone endless": ("keystone", faults.endless, Step.KEYSTONE, TRANSIENT, 200),
    "keystone redirect": ("keystone", faults.page(302, Location="/x"), Step.KEYSTONE, TRANSIENT, 302),
    "keystone hangs up": ("keystone", faults.hanging_up, Step.CONNECTION, TRANSIENT, None),
    "barbican 401": ("/containers/", faults.unauthorized, Step.PERMISSION, DENIED, 401),
    "barbican 401 page": ("/containers/", faults.page(401), Step.BARBICAN, TRANSIENT, 401),
    "barbican 403": ("/containers/", faults.refused(403), Step.PERMISSION, DENIED, 403),
    "barbican 403 page": ("/containers/", faults.page(403), Step.BARBICAN, TRANSIENT, 403),
    "barbican 404": ("/containers/", faults.refused(404), Step.PERMISSION, DENIED, 404),
    "barbican 404 page": ("/containers/", faults.page(404), Step.BARBICAN, TRANSIENT, 404),
    "barbican 406": ("/containers/", faults.refused(406), Step.BARBICAN, TRANSIENT, 406),
    "barbican 409": ("/containers/", faults.refused(409), Step.BARBICAN, TRANSIENT, 409),
    "barbican 429": ("/containers/", faults.refused(429, Retry_After="7"), Step.BARBICAN, TRANSIENT, 429),
    "barbican 500": ("/containers/", faults.refused(500), Step.BARBICAN, TRANSIENT, 500),
    "barbican 503": ("/containers/", faults.page(503, Retry_After="7"), Step.BARBICAN, TRANSIENT, 503),
    "barbican HTML": ("/containers/", faults.page(200), Step.BARBICAN, TRANSIENT, 200),
    "barbican truncated": ("/containers/", faults.truncated, Step.BARBICAN, TRANSIENT, 200),
    "barbican endless": ("/containers/", faults.endless, Step.BARBICAN, TRANSIENT, 200),
    "barbican lengthless": ("/containers/", faults.lengthless, Step.BARBICAN, TRANSIENT, 200),
    "barbican compressed": ("/containers/", faults.compressed, Step.BARBICAN, TRANSIENT, 200),
    "barbican redirect": ("/containers/", faults.page(301, Location="/x"), Step.BARBICAN, TRANSIENT, 301),
    "barbican 303": ("/containers/", faults.page(303, Location="/x"), Step.BARBICAN, TRANSIENT, 303),
    "barbican hangs up": ("/containers/", faults.hanging_up, Step.CONNECTION, TRANSIENT, None),
    "payload 429": ("/payload", faults.refused(429, Retry_After="7"), Step.BARBICAN, TRANSIENT, 429),
    "payload 503": ("/payload", faults.refused(503, Retry_After="7"), Step.BARBICAN, TRANSIENT, 503),
    "payload 401": ("/payload", faults.unauthorized, Step.PERMISSION, DENIED, 401),
    "payload hangs up": ("/payload", faults.hanging_up, Step.CONNECTION, TRANSIENT, None),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_answer_that_is_wrong(cloud: FakeCloud, tmp_path: Path, case: Case) -> None:
    """Refusals by the service itself deny; everything else is transient, and Retry-After is passed on."""
    part, fault, step, kind, status = case
    cloud.add(f"{VPS}/JWT_SECRET")
    cloud.faults[part] = fault
    ran = configure(cloud, tmp_path)()
    assert ran.status == 0
    assert (ran.failure.step, ran.failure.fault, ran.failure.status) == (step, kind, status)
    assert ran.failure.retry_after == (7 if status in {429, 503} else None)
    assert not ran.leaks(cloud.canaries)
    assert b"/x" not in [path.encode() for path in cloud.paths("keystone") + cloud.paths("barbican")]
    assert str(ran.failure) in ran.stderr.decode()
    if part != "keystone" and kind is TRANSIENT:
        assert ran.reply.token_state  # the login was good: the next attempt need not repeat it


@pytest.mark.parametrize("fault", [faults.hanging, faults.dripping], ids=["hanging", "dripping"])
@pytest.mark.parametrize("part", ["keystone", "/containers/", "/payload"])
def test_the_time_is_bounded(
    cloud: FakeCloud, tmp_path: Path, part: str, fault: Callable[[AnsweringHandler], None]
) -> None:
    """A service that never ends its answer costs the cycle, and the reply says what was waited for."""
    cloud.add(f"{VPS}/JWT_SECRET")
    cloud.faults[part] = fault
    ran = configure(cloud, tmp_path)(timeout=6.0)
    assert (ran.failure.step, ran.failure.fault) == (Step.CONNECTION, TRANSIENT)
    assert ("/auth/tokens" if part == "keystone" else part) in ran.failure.tried
    assert not ran.leaks(cloud.canaries)


def test_refused_connections(cloud: FakeCloud, tmp_path: Path) -> None:
    """Either service being down is a matter of the connection."""
    fetch = configure(cloud, tmp_path)
    cloud.servers["barbican"].stop()
    assert fetch().failure.step is Step.CONNECTION
    assert "ECONNREFUSED" in fetch().failure.advice
    cloud.servers["keystone"].stop()
    assert cloud.auth_url in fetch().failure.tried


def test_a_name_that_does_not_resolve(cloud: FakeCloud, tmp_path: Path) -> None:
    """The name system is a step of its own."""
    ran = configure(cloud, tmp_path, auth_url="https://keystone.invalid/v3")(timeout=15)
    assert (ran.failure.step, ran.failure.fault) == (Step.DNS, TRANSIENT)
    assert "keystone.invalid" in ran.failure.tried


def test_proxies_of_the_environment_are_not_used(cloud: FakeCloud, tmp_path: Path) -> None:
    """To whom the credential goes is in the configuration alone."""
    fetch = configure(cloud, tmp_path)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environ = {"http_proxy": proxy, "https_proxy": proxy, "all_proxy": proxy, "no_proxy": ""}
        ran = Fetch(fetch.config, fetch.container, environ=environ)()
    assert ran.reading.entries == ()


@pytest.mark.parametrize(
    ("names", "days", "authority", "text"),
    [
        (("localhost",), 1, "ca", None),
        (("localhost",), 1, "none", "unknown authority"),
        (("localhost",), 1, "other", "unknown authority"),
        (("elsewhere",), 1, "ca", "host name"),
        (("localhost",), -1, "ca", "expired"),
        (("localhost",), 1, "no file", "can't be read"),
        (("localhost",), 1, "no certificate", "PEM"),
    ],
)
def test_certificates(
    tmp_path: Path, names: tuple[str, ...], days: int, authority: str, text: str | None
) -> None:
    """Only a certificate of the configured authority, for this name, at this time, gets the credential."""
    context = tls_context(tmp_path, names, days)
    (tmp_path / "other").mkdir()
    tls_context(tmp_path / "other")
    (tmp_path / "empty.pem").write_text("nothing")
    files = {
        "ca": "ca.pem",
        "other": "other/ca.pem",
        "no file": "missing.pem",
        "no certificate": "empty.pem",
    }
    with FakeCloud(context) as cloud:
        ca_file = str(tmp_path / files[authority]) if authority in files else ""
        ran = configure(cloud, tmp_path, ca_file=ca_file)()
        if text is None:
            assert ran.reading.entries == ()
            return
        assert (ran.failure.step, ran.failure.fault) == (Step.TLS, TRANSIENT)
        assert text in ran.failure.advice
        assert not cloud.requests


def test_a_token_is_not_sent_in_clear(tmp_path: Path) -> None:
    """A catalog that leads from HTTPS to plain HTTP is refused."""
    with FakeCloud(tls_context(tmp_path)) as cloud, FakeCloud() as plain:
        cloud.endpoint = plain.endpoint
        ran = configure(cloud, tmp_path, ca_file=str(tmp_path / "ca.pem"))()
        assert ran.failure.step is Step.CATALOG
        assert not plain.requests


@pytest.mark.parametrize(("key", "value"), [("region", "Elsewhere"), ("interface", "internal")])
def test_a_catalog_without_barbican(cloud: FakeCloud, tmp_path: Path, key: str, value: str) -> None:
    """The wrong region or interface is a matter of the catalog."""
    ran = configure(cloud, tmp_path, **{key: value})()
    assert (ran.failure.step, ran.failure.fault) == (Step.CATALOG, TRANSIENT)
    assert "keystone.region" in ran.failure.advice


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_endpoint_may_be_given_and_may_end_in_its_version(
    cloud: FakeCloud, tmp_path: Path, ending: str
) -> None:
    """Clouds write it in their catalogs one way or the other."""
    made = cloud.add(f"{VPS}/JWT_SECRET")
    address, cloud.endpoint = cloud.endpoint, "http://nowhere.invalid"
    cloud.entries[0]["secret_ref"] = f"{address}/v1/secrets/{made.version}"
    ran = configure(cloud, tmp_path, endpoint_override=address + ending)()
    assert list(ran.reading.read) == [made.version]


@pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
def test_clocks_that_differ_are_told(cloud: FakeCloud, tmp_path: Path, ahead: float) -> None:
    """A cycle goes on as long as it can, and says which clock is wrong where it is refused."""
    cloud.clock_ahead = ahead
    cloud.add(f"{VPS}/JWT_SECRET")
    fetch = configure(cloud, tmp_path)
    direction = b"behind" if ahead > 0 else b"ahead of"
    ran = fetch()
    assert len(ran.reading.read) == 1
    assert b"this machine's clock is 60 minutes " + direction in ran.stderr
    assert [notice.partition(";")[0] for notice in ran.reply.notices] == ["the cycle was good"]
    assert ran.calls["keystone"] == 1, "a new token that seems to have expired is used all the same"
    cloud.faults["keystone"] = faults.refused(401)
    assert "60 minutes " + direction.decode() in fetch().failure.advice


CONTAINERS: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("another container", lambda made: made.update(container_ref=str(made["container_ref"])[:-1] + "x")),
    ("no reference", lambda made: made.pop("container_ref")),
    ("no entries", lambda made: made.pop("secret_refs")),
    ("entries null", lambda made: made.update(secret_refs=None)),
    ("too many", lambda made: made.update(secret_refs=made["secret_refs"] * 201)),
    ("entry no object", lambda made: made.update(secret_refs=[1])),
    ("no secret_ref", lambda made: made["secret_refs"][0].pop("secret_ref")),
    ("ref is a number", lambda made: made["secret_refs"][0].update(secret_ref=1)),
    ("ref without UUID", lambda made: made["secret_refs"][0].update(secret_ref="http://x/v1/secrets/a")),
    ("name is a number", lambda made: made["secret_refs"][0].update(name=1)),
    ("no name", lambda made: made["secret_refs"][0].pop("name")),
]


@pytest.mark.parametrize(("_", "change"), CONTAINERS, ids=[case[0] for case in CONTAINERS])
def test_a_container_that_is_none(
    cloud: FakeCloud, tmp_path: Path, _: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """An answer that is not as documented is a transient fault: nothing may be dropped for it."""
    cloud.add(f"{VPS}/JWT_SECRET")
    made = cloud.container_json()
    change(made)
    cloud.faults["/containers/"] = faults.content(json.dumps(made).encode())
    ran = configure(cloud, tmp_path)()
    assert (ran.failure.step, ran.failure.fault) == (Step.BARBICAN, TRANSIENT)
    assert "not as documented" in ran.failure.advice


def test_foreign_entries_are_reported_and_never_read(cloud: FakeCloud, tmp_path: Path) -> None:
    """An entry with another prefix is none of ours; one whose secret has another's name is listed, unread."""
    own = cloud.add(f"{VPS}/JWT_SECRET")
    prefix = cloud.add("vps-prod-002/JWT_SECRET")
    similar = cloud.add("vps-prod-0010/JWT_SECRET")
    control = cloud.add("vps-prod-002/\x1b[2J")
    nameless = cloud.add(f"{VPS}/")
    named = cloud.add(f"{VPS}/DATABASE_URL", own_name="vps-prod-002/DATABASE_URL")
    swapped = cloud.add(f"{VPS}/SMTP~7", own_name=f"{VPS}/S3")
    numbered = cloud.add(f"{VPS}/SALT~7", own_name=f"{VPS}/SALT~7")
    again = cloud.add(f"{VPS}/TOKEN~7", own_name=f"{VPS}/TOKEN")
    ran = configure(cloud, tmp_path)()
    assert list(ran.reading.read) == [own.version, again.version]
    refused = (named.version, swapped.version, numbered.version)
    assert ran.reading.unread == dict.fromkeys(refused, Unread.FAILED)
    assert {entry.version for entry in ran.reading.entries} == {*ran.reading.read, *ran.reading.unread}
    assert ran.reply.rejected == (
        *("vps-prod-002/JWT_SECRET", "vps-prod-0010/JWT_SECRET", "vps-prod-002/\\x1b[2J", f"{VPS}/"),
    )
    misnamed = "was not read: its secret is named"
    assert list(ran.reply.notices) == [
        f"{VPS}/DATABASE_URL {misnamed} vps-prod-002/DATABASE_URL, which is no secret of this VPS: remove it",
        f"{VPS}/SMTP~7 {misnamed} {VPS}/S3: list it under that name, or remove it",
        f"{VPS}/SALT~7 {misnamed} {VPS}/SALT~7, which is no secret of this VPS: remove it",
    ]
    asked = " ".join(cloud.paths("barbican"))
    assert not any(secret.version in asked for secret in (prefix, similar, control, nameless))
    assert not any(f"{secret.version}/payload" in asked for secret in (named, swapped, numbered))
    assert not ran.leaks(cloud.canaries)


def test_double_names_are_read_only_when_asked(cloud: FakeCloud, tmp_path: Path) -> None:
    """While a rotation is under way, one request is all that a cycle costs."""
    old, new = cloud.add(f"{VPS}/JWT_SECRET"), cloud.add(f"{VPS}/JWT_SECRET")
    fetch = configure(cloud, tmp_path)
    known = frozenset({Version(old.version)})
    waiting = fetch(known=known, reads_doubles=False)
    assert (waiting.calls["barbican"], len(waiting.reading.entries)) == (1, 2)
    read = fetch(known=known, reads_doubles=True)
    assert list(read.reading.read) == [new.version]
    assert len(read.reading.entries) == 2


def on_payload(cloud: FakeCloud, action: Callable[[], object]) -> None:
    """Let something happen between the reading of the container and that of a payload."""

    def fault(handler: AnsweringHandler) -> None:
        assert isinstance(handler, Handler)
        del cloud.faults["/payload"]
        action()
        cloud.barbican(handler)

    cloud.faults["/payload"] = fault


def test_what_goes_on_meanwhile_is_for_the_next_cycle(cloud: FakeCloud, tmp_path: Path) -> None:
    """A whole rotation between container and payload: the old is read, or absent where it was deleted."""
    fetch = configure(cloud, tmp_path)
    for deletes in (False, True):
        cloud.entries.clear()
        old = cloud.add(f"{VPS}/JWT_SECRET")

        def rotate(old: FakeSecret = old, *, deletes: bool = deletes) -> None:
            cloud.entries.clear()
            cloud.add(f"{VPS}/JWT_SECRET")
            if deletes:
                del cloud.secrets[old.version]

        on_payload(cloud, rotate)
        ran = fetch()
        assert [entry.version for entry in ran.reading.entries] == [old.version]
        assert list(ran.reading.read) == ([] if deletes else [old.version])
        assert ran.reading.unread == ({old.version: Unread.ABSENT} if deletes else {})
        assert list(fetch().reading.read) != [old.version]


CREATED = "2026-11-01T00:00:00"
WHOLE: dict[str, object] = {
    "name": "vps-prod-001/A",
    "created": CREATED,
    "content_types": {"default": "text/plain"},
}
OTHER = "00000000-0000-4000-8000-000000000000"


def metadata(**members: object) -> Callable[[AnsweringHandler], None]:
    """Answer with metadata of the secret that is asked for, or of another where a member says so."""

    def answer(handler: AnsweringHandler) -> None:
        if handler.path.endswith("/payload"):
            handler.answer(200, b"x", "application/octet-stream")
        else:
            reference = f"https://barbican.example{handler.path}"
            handler.answer(200, json.dumps({"secret_ref": reference} | members).encode())

    return answer


def test_metadata_that_are_whole_are_taken(cloud: FakeCloud, tmp_path: Path) -> None:
    """Wherever the reference says that Barbican is: the UUID counts."""
    made = cloud.add(f"{VPS}/A")
    cloud.faults[made.version] = metadata(**WHOLE)
    assert configure(cloud, tmp_path)().reading.unread == {}


@pytest.mark.parametrize(
    ("part", "fault", "reason"),
    [
        ("{}/payload", faults.refused(404), Unread.ABSENT),
        ("{}/payload", faults.page(404), Unread.FAILED),
        ("{}/payload", faults.refused(403), Unread.DENIED),
        ("{}/payload", faults.page(403), Unread.FAILED),
        ("{}/payload", faults.refused(500), Unread.FAILED),
        ("{}/payload", faults.truncated, Unread.FAILED),
        ("{}/payload", faults.endless, Unread.FAILED),
        ("{}/payload", faults.lengthless, Unread.FAILED),
        ("{}/payload", faults.content(b""), Unread.FAILED),
        ("{}/payload", faults.content(b"x" * 65537), Unread.FAILED),
        ("{}", faults.refused(404), Unread.ABSENT),
        ("{}", faults.refused(403), Unread.DENIED),
        ("{}", faults.page(200), Unread.FAILED),
        ("{}", faults.content(b"[]"), Unread.FAILED),
        ("{}", faults.content(b"{}"), Unread.FAILED),
        ("{}", metadata(name=1), Unread.FAILED),
        ("{}", metadata(name="vps-prod-002/A"), Unread.FAILED),
        ("{}", metadata(name="vps-prod-001/A"), Unread.FAILED),
        ("{}", metadata(name="vps-prod-001/A", created=CREATED), Unread.ABSENT),
        ("{}", metadata(name="vps-prod-001/A", content_types=1), Unread.FAILED),
        (
            "{}",
            metadata(name="vps-prod-001/A", created="x", content_types={"default": "a/b"}),
            Unread.FAILED,
        ),
        ("{}", metadata(name="vps-prod-001/A", content_types={"default": "a/b"}), Unread.FAILED),
        ("{}", metadata(**WHOLE, secret_ref=f"https://barbican.example/v1/secrets/{OTHER}"), Unread.FAILED),
        ("{}", metadata(**WHOLE, secret_ref=None), Unread.FAILED),
    ],
)
def test_one_secret_that_cant_be_read(
    cloud: FakeCloud,
    tmp_path: Path,
    part: str,
    fault: Callable[[AnsweringHandler], None],
    reason: Unread,
) -> None:
    """The others are read all the same; it stays listed, and the reason is reported by its name."""
    bad, good = cloud.add(f"{VPS}/A"), cloud.add(f"{VPS}/B")
    cloud.faults[part.format(bad.version)] = fault
    ran = configure(cloud, tmp_path)()
    assert list(ran.reading.read) == [good.version]
    assert ran.reading.unread == {bad.version: reason}
    assert len(ran.reading.entries) == 2
    assert [notice.partition(" ")[0] for notice in ran.reply.notices] == [f"{VPS}/A"]
    assert f"{VPS}/A was not read: " in ran.stderr.decode()
    assert (ran.reply.payloads[Version(good.version)] == good.payload) is True
    assert not ran.leaks(cloud.canaries)


def test_a_secret_without_payload_and_one_with_an_expiry(cloud: FakeCloud, tmp_path: Path) -> None:
    """Created but not written is absent; an expiry is passed on as Unix time."""
    empty = cloud.add(f"{VPS}/A", payload=None)
    ends = cloud.add(f"{VPS}/B", expiration="2027-01-01T00:00:00")
    ran = configure(cloud, tmp_path)()
    assert ran.reading.unread == {empty.version: Unread.ABSENT}
    assert ran.reading.read[Version(ends.version)].expires == 1798761600.0


def test_an_empty_container(cloud: FakeCloud, tmp_path: Path) -> None:
    """No entries is an answer like any other."""
    ran = configure(cloud, tmp_path)()
    assert ran.reading.entries == ()
    assert ran.calls == {"keystone": 1, "barbican": 1}


def test_many_secrets_are_read_at_the_same_time(cloud: FakeCloud, tmp_path: Path) -> None:
    """Forty new versions: 2k + 1 requests, and every payload is its own."""
    made = [cloud.add(f"{VPS}/SECRET_{number}") for number in range(40)]
    ran = configure(cloud, tmp_path, "[fetch]\nthreads = 8\n")()
    assert ran.calls["keystone"] == 1
    assert ran.calls["barbican"] == 81
    wrong = [s.name for s in made if ran.reply.payloads[Version(s.version)] != s.payload]
    assert not wrong


LISTS = "[fetch]\nlist_metadata = true\n"


def test_metadata_come_in_one_list(cloud: FakeCloud, tmp_path: Path) -> None:
    """The same as one by one, in k + 2 requests; for one version it is not worth one."""
    made = [cloud.add(f"{VPS}/SECRET_{number}") for number in range(7)]
    cloud.add(f"{VPS}/EMPTY", payload=None)
    cloud.add(f"{VPS}/ENDS", expiration="2027-01-01T00:00:00")
    cloud.add(f"{VPS}/DISGUISED", own_name="vps-prod-002/A")
    cloud.secrets |= {secret.version: secret for secret in [FakeSecret("other", b"other")]}
    each = configure(cloud, tmp_path)()
    cloud.requests.clear()
    ran = configure(cloud, tmp_path, LISTS)()
    assert ran.reading == each.reading
    assert ran.reply.payloads == each.reply.payloads
    assert ran.reply.rejected == each.reply.rejected
    assert (each.reply.listed, ran.reply.listed) == (None, True)
    assert ran.calls["barbican"] == 2 + 7 + 1
    assert sum(path.endswith("/payload") for path in cloud.paths("barbican")) == 8
    assert not ran.leaks(cloud.canaries)

    known = frozenset(Version(secret.version) for secret in list(cloud.secrets.values()))
    one = configure(cloud, tmp_path, LISTS)(known=known - {Version(made[0].version)})
    assert one.reply.listed is None
    assert one.calls["barbican"] == 3


def test_a_list_of_several_pages(cloud: FakeCloud, tmp_path: Path) -> None:
    """The newest first; what is not among the newest 300 is asked for by itself."""
    old = [cloud.add(f"{VPS}/OLD_{number}") for number in range(2)]
    newer = [FakeSecret(f"{VPS}/REMOVED", b"x") for _ in range(150)]
    cloud.secrets |= {secret.version: secret for secret in newer}
    fetch = configure(cloud, tmp_path, LISTS)
    ran = fetch()
    assert len(ran.reading.read) == 2
    assert ran.calls["barbican"] == 1 + 2 + 2
    assert [path.rpartition("offset=")[2] for path in cloud.paths("barbican") if "?" in path] == ["0", "100"]

    cloud.requests.clear()
    cloud.secrets |= {s.version: s for s in (FakeSecret(f"{VPS}/REMOVED", b"x") for _ in range(200))}
    ran = fetch()
    assert sorted(ran.reading.read) == sorted(secret.version for secret in old)
    assert ran.calls["barbican"] == 1 + 3 + 4


@pytest.mark.parametrize(
    ("fault", "listed"),
    [
        (faults.refused(403), False),
        (faults.page(403), False),
        (faults.unauthorized, False),
        (faults.refused(404), False),
        (faults.refused(500), False),
        (faults.page(200), False),
        (faults.truncated, False),
        (faults.content(b'{"secrets": {}, "total": 1}'), False),
        (faults.content(b'{"secrets": [1], "total": 1}'), False),
        (faults.content(b'{"secrets": []}'), False),
        (faults.content(b'{"secrets": [{}], "total": 1}'), True),
        (faults.content(b'{"secrets": [], "total": 0}'), True),
    ],
)
def test_a_list_that_is_not_given(
    cloud: FakeCloud, tmp_path: Path, fault: Callable[[AnsweringHandler], None], *, listed: bool
) -> None:
    """Everything is read one by one, and it is told."""
    made = [cloud.add(f"{VPS}/SECRET_{number}") for number in range(3)]
    cloud.faults["/v1/secrets?"] = fault
    ran = configure(cloud, tmp_path, LISTS)()
    assert sorted(ran.reading.read) == sorted(secret.version for secret in made)
    assert ran.reply.listed is listed
    assert (b"did not give the list" in ran.stderr) is not listed
    assert not ran.leaks(cloud.canaries)


@pytest.mark.parametrize(
    "item",
    [
        {"created": "x"},
        {"created": 1},
        {"content_types": 1},
        {"expiration": "never"},
        {"secret_ref": "https://elsewhere.example/v1/secrets/x"},
        {"name": ""},
    ],
)
def test_an_item_of_the_list_that_is_none(cloud: FakeCloud, tmp_path: Path, item: dict[str, object]) -> None:
    """It is asked for by itself, and the others are not."""
    made = [cloud.add(f"{VPS}/SECRET_{number}") for number in range(2)]
    page = cloud.list_json(0)
    page["secrets"] = [cloud.metadata(made[0]) | item, cloud.metadata(made[1])]
    cloud.faults["/v1/secrets?"] = faults.content(json.dumps(page).encode())
    ran = configure(cloud, tmp_path, LISTS)()
    assert len(ran.reading.read) == 2
    assert ran.calls["barbican"] == 2 + 2 + 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_list_that_is_asked_for_too_often(cloud: FakeCloud, tmp_path: Path, status: int) -> None:
    """The service is away or wants fewer requests: it does not get more instead."""
    for number in range(3):
        cloud.add(f"{VPS}/SECRET_{number}")
    cloud.faults["/v1/secrets?"] = faults.refused(status, Retry_After="7")
    ran = configure(cloud, tmp_path, LISTS)()
    assert (ran.failure.step, ran.failure.status, ran.failure.retry_after) == (Step.BARBICAN, status, 7)
    assert ran.calls["barbican"] == 2


def test_calls_are_counted_by_their_outcome(cloud: FakeCloud, tmp_path: Path) -> None:
    """Answered, refused, and all else: another answer, a cut one, none."""
    for number in range(4):
        cloud.add(f"{VPS}/SECRET_{number}")
    versions = list(cloud.secrets)
    cloud.faults[versions[0]] = faults.refused(404)
    cloud.faults[versions[1] + "/payload"] = faults.truncated
    cloud.faults[versions[2] + "/payload"] = faults.refused(500)
    ran = configure(cloud, tmp_path)()
    assert ran.reply.calls == {
        "keystone": {"ok": 1, "refused": 0, "failed": 0},
        "barbican": {"ok": 5, "refused": 1, "failed": 2},
    }
    cloud.faults.clear()
    cloud.faults["/containers/"] = faults.hanging
    assert configure(cloud, tmp_path)(timeout=6.0).reply.calls["barbican"]["failed"] == 1
    cloud.faults["keystone"] = faults.refused(401)
    assert configure(cloud, tmp_path)().reply.calls["keystone"] == {"ok": 0, "refused": 1, "failed": 0}


def test_a_password_logs_in(cloud: FakeCloud, tmp_path: Path) -> None:
    """The second way to log in."""
    ran = configure(cloud, tmp_path, application_credential_id="", username="u", project="p")()
    assert ran.calls["keystone"] == 1
    assert ran.reading.entries == ()


@pytest.mark.parametrize("secure", [False, True])
def test_clouds_yaml_logs_in(cloud: FakeCloud, tmp_path: Path, *, secure: bool) -> None:
    """The third way, with the secret in the file itself or in secure.yaml beside it."""
    secret = {"application_credential_secret": cloud.credential}
    auth = {"auth_url": cloud.auth_url, "application_credential_id": "a"}
    inside: dict[str, Any] = {
        "auth_type": "v3applicationcredential",
        "auth": auth if secure else auth | secret,
    }
    clouds = tmp_path / "clouds.yaml"
    clouds.write_text(json.dumps({"clouds": {"vps": inside}}))
    clouds.chmod(0o644 if secure else 0o600)
    if secure:
        (tmp_path / "secure.yaml").write_text(json.dumps({"clouds": {"vps": {"auth": secret}}}))
        (tmp_path / "secure.yaml").chmod(0o600)
    fetch = configure(
        cloud,
        tmp_path,
        auth_url="",
        application_credential_id="",
        credential_file="",
        cloud="vps",
        clouds_file=str(clouds),
    )
    assert fetch().reading.entries == ()
    for address, good in (("http://keystone.example/v3", False), (cloud.auth_url.removesuffix("/v3"), True)):
        clouds.write_text(
            json.dumps({"clouds": {"vps": inside | {"auth": inside["auth"] | {"auth_url": address}}}})
        )
        ran = fetch()
        assert ran.reply.reading is not None or (ran.failure.step, good) == (Step.CREDENTIAL, False)
    (tmp_path / ("secure.yaml" if secure else "clouds.yaml")).chmod(0o640)
    ran = fetch()
    assert ran.failure.step is Step.CREDENTIAL
    assert "make it private" in ran.failure.advice
    assert not ran.leaks(cloud.canaries)


def test_the_credential_comes_from_systemd_or_a_descriptor(cloud: FakeCloud, tmp_path: Path) -> None:
    """The directory of LoadCredential= and an inherited descriptor serve as well as a file."""
    fetch = configure(cloud, tmp_path, credential_file="", credential="credential")
    assert fetch().failure.step is Step.CREDENTIAL
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Fetch(fetch.config, fetch.container, environ=environ)().reading.entries == ()

    descriptor = os.open(tmp_path / "credential", os.O_RDONLY)
    text = fetch.config.read_text().replace('credential = "credential"', f"credential_fd = {descriptor}")
    fetch.config.write_text(text)
    inherited = Fetch(fetch.config, fetch.container, inherited=(descriptor,))
    assert inherited().reading.entries == ()
    assert inherited().reading.entries == ()  # read from its start, every time
    os.close(descriptor)


def run(*arguments: str, sent: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Start the program with anything on its standard input."""
    command = [sys.executable, "-m", "agent.fetch", *arguments]
    return subprocess.run(command, input=sent, capture_output=True, timeout=30, check=False)


def test_a_bad_configuration_is_replied_and_told(cloud: FakeCloud, tmp_path: Path) -> None:
    """Status 78, a failure reply with that step, and every mistake in the journal, none with its value."""
    fetch = configure(cloud, tmp_path, credential_filee="/x")
    ran = fetch()
    assert ran.status == 78
    assert ran.failure.step is Step.CONFIGURATION
    assert re.search(rb"agent\.toml: .*credential_filee", ran.stderr)


def test_no_request_no_reply(tmp_path: Path) -> None:
    """Without a request there is nothing to answer: status 1; a wrong argument is 2."""
    for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"VSA1Q\0\0\0\x05\0\0\0\0"):
        done = run("--config", str(tmp_path / "none.toml"), sent=sent)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"Traceback" not in done.stderr
    assert run("--unknown").returncode == 2
