"""When the application credential expires, asked of the real Keystone: what that costs, and can't break."""

from __future__ import annotations

import datetime as dt
import json
import time
from typing import TYPE_CHECKING

import pytest

from deployer.cloud.accounts import RUNTIME_RULES
from lab.testbed.cloud import Account, Cloud
from lab.testbed.fakes import faults
from lab.testbed.fakes.fetching import Fetch
from lab.testbed.fakes.proxy import FaultProxy, corrupted, half, late

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.cloud.accounts import Rule

DAY = 86_400.0
OWN = "/application_credentials/"
BARBICANS_ONLY = tuple(rule for rule in RUNTIME_RULES if not rule[1].startswith("/v3/"))


@pytest.fixture
def proxy(cloud: Cloud) -> Iterator[FaultProxy]:
    """In front of Keystone."""
    with FaultProxy(cloud.auth_url, "keystone") as made:
        yield made


def fetch_with(
    cloud: Cloud,
    proxy: FaultProxy,
    directory: Path,
    days: float | None = None,
    rules: tuple[Rule, ...] | None = RUNTIME_RULES,
) -> Fetch:
    """Make a VPS whose credential expires in so many days."""
    vps = cloud.vps(f"vps-expiry-{time.monotonic_ns()}", {"A": b"a-value"})
    user = cloud.runtime[vps.vps_id].user
    at = None
    if days is not None:
        moment = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        at = moment.strftime("%Y-%m-%dT%H:%M:%S")
    credential = cloud.accounts.application_credential(user, cloud.session_of(user), "dated", rules, at)
    cloud.runtime[vps.vps_id] = Account(user, credential)
    path = directory / "agent.toml"
    path.write_text(cloud.configuration(vps, directory).replace(cloud.auth_url, proxy.url))
    return Fetch(path, vps.container_ref.rpartition("/")[2], vps.vps_id)


def asked(proxy: FaultProxy) -> int:
    """Return how often Keystone was asked."""
    return sum(OWN in line for line in proxy.seen)


@pytest.mark.parametrize("rules", [RUNTIME_RULES, None], ids=["with the rule", "without rules"])
def test_it_is_told_once_a_day(
    cloud: Cloud, proxy: FaultProxy, tmp_path: Path, rules: tuple[Rule, ...] | None
) -> None:
    """With a login; a quiet cycle remembers it, and so does a new login within the day."""
    fetch = fetch_with(cloud, proxy, tmp_path, 9, rules)
    first = fetch()
    expires = first.reply.credential_expires
    assert expires is not None
    assert abs(expires - time.time() - 9 * DAY) < 60
    assert (asked(proxy), len(proxy.seen)) == (1, 2)
    quiet = fetch(known=frozenset(first.reading.read), token_state=first.reply.token_state)
    assert (quiet.reply.credential_expires, len(proxy.seen)) == (expires, 2)
    state = json.loads(first.reply.token_state)
    no_token = json.dumps(state | {"state": None}).encode()
    assert fetch(token_state=no_token).reply.credential_expires == expires
    assert (asked(proxy), len(proxy.seen)) == (1, 3)
    yesterday = json.dumps(state | {"state": None, "expiry": [expires, time.time() - DAY]}).encode()
    assert fetch(token_state=yesterday).reply.credential_expires == expires
    assert asked(proxy) == 2


def test_one_that_never_expires(cloud: Cloud, proxy: FaultProxy, tmp_path: Path) -> None:
    """Is asked about as well, and told as such."""
    ran = fetch_with(cloud, proxy, tmp_path)()
    assert (ran.reply.credential_expires, asked(proxy)) == (None, 1)


def test_without_the_rule_nothing_is_asked(cloud: Cloud, proxy: FaultProxy, tmp_path: Path) -> None:
    """Access rules for Barbican only: the token tells that Keystone would refuse."""
    ran = fetch_with(cloud, proxy, tmp_path, 9, BARBICANS_ONLY)()
    assert (ran.reply.credential_expires, asked(proxy)) == (None, 0)
    assert len(ran.reading.read) == 1


@pytest.mark.long
def test_no_fault_costs_the_reading_anything(cloud: Cloud, proxy: FaultProxy, tmp_path: Path) -> None:
    """It is made already, whatever Keystone answers then, and however slowly."""
    fetch = fetch_with(cloud, proxy, tmp_path, 9)
    wrong_one = b'{"application_credential": {"id": "other", "expires_at": null}}'
    for fault in (
        *(faults.refused(401), faults.refused(403), faults.refused(404), faults.page(500)),
        *(faults.content(b"[]"), faults.content(wrong_one)),
        *(faults.hanging_up, faults.dripping, half, corrupted, late(60)),
    ):
        proxy.seen.clear()
        with proxy.faulty(fault, OWN):
            ran = fetch()
        assert len(ran.reading.read) == 1
        assert ran.reply.credential_expires is None
        assert "not known when the credential expires" in ran.reply.notices[0]
        assert proxy.seen.count("POST /v3/auth/tokens") == 1, "a refusal costs no second login"
        assert asked(proxy) == 1
        assert ran.reply.token_state
