"""Agents' records as the weekly report counts them: this week, the time before, and what is no record."""

from __future__ import annotations

import json

import pytest

from deployer.core.accesses import MOST, UNIT, Accesses, Reader, Refusal
from deployer.core.schedule import DAY_S

NOW = 1_795_000_000.0


def line(days_ago: float, **fields: object) -> bytes:
    """Return an entry as journalctl prints it."""
    entry = {
        "__REALTIME_TIMESTAMP": str(int((NOW - days_ago * DAY_S) * 1e6)),
        "_HOSTNAME": "vps-1",
        "_SYSTEMD_UNIT": UNIT,
        "VPS_SECRETS_OUTCOME": "served",
        "VPS_SECRETS_UID": "1000",
        "VPS_SECRETS_NAME": "JWT_SECRET",
    }
    return json.dumps(entry | fields).encode() + b"\n"


def counted(*lines: bytes) -> Accesses:
    """Count them for a week."""
    made = Accesses(NOW, 7)
    for one in lines:
        made.add(one)
    return made


def test_a_week_and_the_time_before_it() -> None:
    """A caller is a unit where the record has one; a bundle has several names."""
    found = counted(
        line(0.5),
        line(6.5, VPS_SECRETS_NAME=["A", "B"]),
        line(8, VPS_SECRETS_UNIT="app.service"),
        line(-1),
        b'{"MESSAGE": "something else"}',
    )
    assert found.recent.reads == {Reader("vps-1", "uid 1000", name): 1 for name in ("JWT_SECRET", "A", "B")}
    assert found.before.reads == {Reader("vps-1", "app.service", "JWT_SECRET"): 1}
    assert (found.served_by_day[0], found.served_by_day[6]) == (1, 1)
    assert found.weeks_before == pytest.approx(1 / 7)


def test_refusals_are_no_reads() -> None:
    """Denied and too soon; what failed is neither."""
    denied = {"VPS_SECRETS_OUTCOME": "denied", "VPS_SECRETS_REASON": "not-granted"}
    found = counted(line(1, **denied), line(1, **denied), line(1, VPS_SECRETS_OUTCOME="failed"))
    assert found.recent.refusals == {Refusal("vps-1", "uid 1000", "not-granted"): 2}
    assert sum(found.refused_by_day) == 2
    assert found.recent.reads == {}


def test_a_first_read_needs_a_before() -> None:
    """Nothing is new on a machine that nobody knows."""
    assert counted(line(1)).first_readers() == []
    found = counted(line(10, VPS_SECRETS_NAME="A"), line(1, VPS_SECRETS_NAME="A"), line(1))
    assert found.first_readers() == [(Reader("vps-1", "uid 1000", "JWT_SECRET"), 1)]
    assert counted(line(10), line(1, _HOSTNAME="vps-2")).silent_hosts() == ["vps-1"]


def test_entries_of_others_are_told_and_not_counted() -> None:
    """Whoever wrote them has no part in what journald adds."""
    found = counted(line(1, _SYSTEMD_UNIT="user@1000.service"), line(1))
    assert found.forged == {"vps-1: user@1000.service": 1}
    assert sum(found.recent.reads.values()) == 1


@pytest.mark.parametrize(
    "untrusted",
    [
        b'{"VPS_SECRETS_OUTCOME": "served"}',
        b'["VPS_SECRETS_OUTCOME"]',
        b"VPS_SECRETS_OUTCOME\xff",
        b'{"VPS_SECRETS_OUTCOME": 1, "__REALTIME_TIMESTAMP": "x"}',
        b"[" * 100_000 + b"VPS_SECRETS_OUTCOME",
    ],
)
def test_what_is_no_entry_is_counted_as_unreadable(untrusted: bytes) -> None:
    """Whatever a line is, the next one is read."""
    found = counted(untrusted, line(1))
    assert found.unreadable == 1
    assert sum(found.recent.reads.values()) == 1


def test_a_version_is_followed_to_the_request_that_brought_it() -> None:
    """By what fetch wrote, and nobody else."""
    version, request = "eddf6bb5-9888-4c63-98d0-cb9e770147d1", "req-00000000-0000-4000-8000-000000000001"
    message = f"fetch: INFO: read A: version {version}, request {request}"
    entry = {"__REALTIME_TIMESTAMP": str(int((NOW - 20 * DAY_S) * 1e6)), "MESSAGE": message}
    served = line(1, VPS_SECRETS_VERSION=version)
    found = counted(json.dumps(entry | {"_SYSTEMD_UNIT": "vps-secrets-fetch@1-2.service"}).encode(), served)
    assert (found.served, found.brought, found.requests) == ({version}, {version}, {request})
    assert (found.first, found.last) == (NOW - 20 * DAY_S, NOW - DAY_S)
    assert counted(json.dumps(entry | {"_SYSTEMD_UNIT": "evil.service"}).encode()).requests == set()
    broken = counted(json.dumps({"MESSAGE": message}).encode())
    assert (broken.requests, broken.unreadable) == (set(), 1)


def test_more_than_can_be_told_apart_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are bounds."""
    monkeypatch.setattr("deployer.core.accesses.MOST", 1)
    found = counted(*(line(1, VPS_SECRETS_VERSION=version) for version in "aab"))
    assert found.is_full
    assert found.served == {"a"}


def test_words_of_others_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters are shown as such; there are bounds."""
    monkeypatch.setattr("deployer.core.accesses.MOST", 1)
    found = counted(line(1, VPS_SECRETS_NAME="A\x1b[2J"), line(1, VPS_SECRETS_NAME=[1, 2]))
    assert [reader.name for reader in found.recent.reads] == ["A\\x1b[2J"]
    assert found.recent.others == 2
    assert MOST > 1000
