"""The real fetch program and its bounds: none is silent, and a large cloud costs no more than a small one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent.core.errors import Fault, Step
from agent.core.rotation import Unread
from agent.core.wire import MAX_NOTICES, MAX_TOKEN_STATE
from common.names import Version
from lab.testbed.fakes import faults
from lab.testbed.fakes.cloud import VPS, FakeCloud, FakeSecret
from lab.testbed.fakes.fetching import configure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    """A healthy cloud."""
    with FakeCloud() as made:
        yield made


def catalog(cloud: FakeCloud, others: int, kind: str = "key-manager") -> list[dict[str, Any]]:
    """Return a catalog with so many other services, the largest part of a token's answer."""
    endpoint = {"interface": "public", "region": "RegionOne", "region_id": "RegionOne", "id": "e"}
    return [
        {
            "type": kind if number == others // 2 else f"service-{number}",
            "name": f"service-{number}",
            "id": f"{number:032x}",
            "endpoints": [
                endpoint
                | {
                    "interface": interface,
                    "url": cloud.endpoint
                    if number == others // 2
                    else f"https://s{number}.example/{'x' * 64}",
                }
                for interface in ("public", "internal", "admin")
            ],
        }
        for number in range(others + 1)
    ]


@pytest.mark.parametrize(
    ("kind", "extra"),
    [
        ("key-manager", {}),
        ("secrets-of-ours", {"service_type": "secrets-of-ours"}),
        ("other", {"override": ""}),
    ],
)
def test_a_large_catalog_costs_nothing_in_a_quiet_cycle(
    cloud: FakeCloud, tmp_path: Path, kind: str, extra: dict[str, str]
) -> None:
    """Of 500 services the token state keeps the endpoints of the one that is needed."""
    made = cloud.add(f"{VPS}/JWT_SECRET")
    groups = [{"id": f"{number:032x}", "name": "g" * 64} for number in range(1000)]
    cloud.token_members = {"catalog": catalog(cloud, 500, kind), "roles": groups, "OS-FEDERATION": groups}
    assert len(json.dumps(cloud.token_members)) > 256 * 1024
    changes = {"endpoint_override": cloud.endpoint} if "override" in extra else extra
    fetch = configure(cloud, tmp_path, **changes)
    first = fetch()
    assert 0 < len(first.reply.token_state) < 4096
    cloud.requests.clear()
    quiet = fetch(known=frozenset(first.reading.read), token_state=first.reply.token_state)
    assert cloud.requests == [("barbican", "GET", f"/v1/containers/{cloud.container}")]
    assert quiet.reply.token_state == first.reply.token_state
    assert not quiet.reply.notices
    new = fetch(token_state=quiet.reply.token_state)
    assert list(new.reading.read) == [made.version]
    assert new.calls["keystone"] == 0


def test_a_token_that_is_too_long_is_reported(cloud: FakeCloud, tmp_path: Path) -> None:
    """It can't be kept, so each cycle costs a login: that is said, in the journal and to serve."""
    cloud.token = "x" * (MAX_TOKEN_STATE // 2)
    cloud.token_members = {"catalog": catalog(cloud, 2) * 100}
    ran = configure(cloud, tmp_path)()
    assert ran.reply.token_state == b""
    assert "too long to be kept" in ran.reply.notices[0]
    assert str(MAX_TOKEN_STATE) in ran.reply.notices[0]
    assert "every cycle logs in" in ran.stderr.decode()
    assert not ran.leaks(cloud.canaries)


def test_a_catalog_that_is_of_no_use_is_asked_for_again(cloud: FakeCloud, tmp_path: Path) -> None:
    """It came with a token that is still good; the cloud's mistake must not last as long as the token."""
    good, cloud.token_members = dict(cloud.token_members), {"catalog": catalog(cloud, 3, "none")}
    fetch = configure(cloud, tmp_path)
    ran = fetch()
    assert (ran.failure.step, ran.failure.fault) == (Step.CATALOG, Fault.TRANSIENT)
    cloud.token_members = good
    assert fetch(token_state=ran.reply.token_state).reading.entries == ()


def test_another_service_type_is_looked_up_anew(cloud: FakeCloud, tmp_path: Path) -> None:
    """The former token's state has not its endpoints."""
    cloud.token_members = {"catalog": [*catalog(cloud, 1), *catalog(cloud, 1, "other-type")]}
    state = configure(cloud, tmp_path)().reply.token_state
    ran = configure(cloud, tmp_path, service_type="other-type")(token_state=state)
    assert ran.calls == {"keystone": 1, "barbican": 1}


def test_more_entries_than_a_container_may_have(cloud: FakeCloud, tmp_path: Path) -> None:
    """The cycle fails with the bound and the number: nothing is left out, and what is held stays."""
    for number in range(201):
        cloud.add(f"{VPS}/S{number}")
    ran = configure(cloud, tmp_path)()
    assert (ran.failure.step, ran.failure.fault) == (Step.BARBICAN, Fault.TRANSIENT)
    assert "201 entries, and this agent takes 200" in ran.failure.advice
    assert ran.calls["barbican"] == 1


def test_more_payload_than_one_cycle_takes(cloud: FakeCloud, tmp_path: Path) -> None:
    """The rest is unread with that reason, and the next cycle reads it."""
    made = [cloud.add(f"{VPS}/S{number}", payload=b"%05d" % number * 13_000) for number in range(66)]
    fetch = configure(cloud, tmp_path, "[fetch]\nthreads = 8\n")
    ran = fetch(timeout=60.0)
    assert len(ran.reading.read) == 64
    assert list(ran.reading.unread.values()) == [Unread.FAILED] * 2
    assert all("one cycle takes 4194304 bytes" in notice for notice in ran.reply.notices)
    rest = fetch(known=frozenset(ran.reading.read), timeout=60.0)
    assert {*ran.reading.read, *rest.reading.read} == {secret.version for secret in made}
    assert not rest.reply.notices


@pytest.mark.parametrize(("size", "told"), [(65536, ""), (65537, "65537 bytes, and this agent takes 65536")])
def test_a_payload_that_is_too_large(cloud: FakeCloud, tmp_path: Path, size: int, told: str) -> None:
    """By one byte."""
    cloud.add(f"{VPS}/A", payload=b"x" * size)
    ran = configure(cloud, tmp_path)()
    assert (not ran.reading.read) is bool(told)
    assert told in "".join(ran.reply.notices)


def test_more_refused_entries_than_the_wire_takes(cloud: FakeCloud, tmp_path: Path) -> None:
    """The bound is that of the container, so all are told."""
    for number in range(MAX_NOTICES - 1):
        cloud.add(f"vps-{number}/A")
    cloud.add(f"{VPS}/A")
    ran = configure(cloud, tmp_path)()
    assert (len(ran.reply.rejected), len(ran.reading.read)) == (MAX_NOTICES - 1, 1)


def test_a_list_that_is_longer_than_what_is_looked_through(cloud: FakeCloud, tmp_path: Path) -> None:
    """What it costs more is told."""
    for number in range(2):
        cloud.add(f"{VPS}/OLD_{number}")
    cloud.secrets |= {s.version: s for s in (FakeSecret(f"{VPS}/REMOVED", b"x") for _ in range(310))}
    ran = configure(cloud, tmp_path, "[fetch]\nlist_metadata = true\n")()
    assert len(ran.reading.read) == 2
    assert "312 secrets, of which the newest 300" in ran.reply.notices[0]


def test_an_answer_that_is_too_long(cloud: FakeCloud, tmp_path: Path) -> None:
    """By its length or by its chunks: the bound is in the text."""
    made = cloud.add(f"{VPS}/A")
    for fault in (faults.endless, faults.content(b" " * (1024 * 1024 + 1))):
        for part, service in (("keystone", Step.KEYSTONE), ("/containers/", Step.BARBICAN)):
            cloud.faults = {part: fault}
            ran = configure(cloud, tmp_path)()
            assert (ran.failure.step, "longer than 1048576 bytes" in ran.failure.advice) == (service, True)
        cloud.faults = {"/payload": fault}
        ran = configure(cloud, tmp_path)()
        assert ran.reading.unread == {Version(made.version): Unread.FAILED}
        assert "longer than 1048576 bytes" in ran.reply.notices[0]
