"""deployer/core/lifetimes.py and what is built on it: who is warned of which credential, and when."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from deployer.api.dashboard import views
from deployer.api.metrics import Metrics
from deployer.cloud.errors import CloudError
from deployer.core import lifetimes
from deployer.core.lifetimes import DAY_S, Lifetime
from deployer.database import checks
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.worker.lifetimes import AGAIN_S, Keeper

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.database.engine import Database

NOW = 1_800_000_000.0
KEY = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty one."""
    found = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(found)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("days", "urgency"), [(14.1, 0), (13.9, 1), (7.1, 1), (6.9, 2), (1.1, 2), (0.9, 3), (-0.1, 4)]
)
def test_warned_14_7_and_1_days_before_and_after_the_end(days: float, urgency: int) -> None:
    """Each step is more urgent, and says when and what to do."""
    life = Lifetime("password", ends=NOW + days * DAY_S, renew="make another")
    assert lifetimes.urgency(life, NOW) == urgency
    said = lifetimes.warning(life, NOW)
    assert bool(said) is (urgency > 0)
    assert not said or ("password" in said and said.endswith(": make another"))


def test_what_has_no_end_has_an_age_and_no_warning() -> None:
    """Such as a key of age."""
    life = Lifetime("age key", since=NOW - 400 * DAY_S)
    assert (lifetimes.urgency(life, NOW), lifetimes.warning(life, NOW)) == (0, "")
    assert lifetimes.words(life, NOW) == "has no end, 400 d old"


def test_what_is_not_looked_at_any_more_says_so() -> None:
    """But of another machine, which may have been taken down, nothing is said."""
    life = Lifetime("password", ends=NOW + 100 * DAY_S)
    found = lifetimes.of_check("credential: password", NOW, life.detail(), NOW + 4 * DAY_S)
    assert found is not None
    assert "last looked at 4 d ago" in lifetimes.warning(found, NOW + 4 * DAY_S)
    of_host = replace(life, host="db1").detail()
    assert lifetimes.of_check("credential: password", NOW, of_host, NOW + 4 * DAY_S) is None
    assert lifetimes.of_check("credential: password", NOW, of_host, NOW) == replace(life, host="db1")
    assert lifetimes.of_check("cloud: rules bind", NOW, {}, NOW) is None


def test_the_worker_keeps_what_it_finds_out(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Each credential is a check; what can't be asked is a warning, and asked again in an hour."""
    ends = {"a": NOW + 6.5 * DAY_S}
    away = [True]

    def of_a() -> Lifetime:
        return Lifetime("a", ends=ends["a"], renew="do this")

    def of_b() -> Lifetime:
        if away:
            raise CloudError("ask", "the registrar does not answer", retriable=True)
        return Lifetime("b", ends=None, since=NOW - DAY_S)

    keeper = Keeper(database, lambda: NOW, [("a", "", of_a), ("b", "restart it", of_b)], [KEY])
    with caplog.at_level(logging.WARNING):
        assert keeper.look() == AGAIN_S
    assert "a: ends in 6 d (2027-01-21T20:00:00Z): do this" in caplog.text
    assert "b: how long it lasts is not known: ask: the registrar does not answer" in caplog.text
    text = _metrics(database, NOW)
    assert 'credential_warning{credential="a"} 2.0' in text
    assert 'credential_warning{credential="b"} -1.0' in text
    assert 'credential_expires_timestamp_seconds{credential="b"}' not in text
    away.clear()
    ends["a"] = NOW + 300 * DAY_S
    caplog.clear()
    later = Keeper(database, lambda: NOW + DAY_S, [("a", "", of_a), ("b", "", of_b)], [KEY])
    assert later.look() == DAY_S
    assert not caplog.text
    text = _metrics(database, NOW + DAY_S)
    assert 'credential_warning{credential="a"} 0.0' in text
    assert 'credential_expires_timestamp_seconds{credential="b"} +Inf' in text
    assert f'credential_age_seconds{{credential="age key {KEY}"}} {DAY_S}' in text
    # a recipient that the configuration has no more is forgotten
    Keeper(database, lambda: NOW + DAY_S, [], []).look()
    assert KEY not in _metrics(database, NOW + DAY_S)


def _metrics(database: Database, now: float) -> str:
    with database.read() as c:
        return Metrics(()).exposition(c, now)


def test_the_dashboard_counts_from_the_moment_of_asking(database: Database) -> None:
    """What had 15 days at the daily look is a warning two days later."""
    life = Lifetime("a", ends=NOW + 15 * DAY_S, renew="do this")
    with database.write() as c:
        checks.record(c, NOW, lifetimes.PREFIX + "a", passed=True, detail=life.detail())
        rows = checks.latest(c)
    assert views.checks_page(NOW, rows).mood == "good"
    (line,) = views.checks_page(NOW + 2 * DAY_S, rows).rows
    assert line.state == "failed"
    assert {fact.text for fact in line.about} == {"ends in 13 d (2027-01-30T08:00:00Z)", "do this"}
