"""deployer/worker/joining.py: a VPS whose user was claimed, and whose key does not come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from deployer.worker import joining
from deployer.worker.registrar import Registrar
from lab.testbed.fakes.registrar import FakeRegistrar
from tests.database import making
from tests.database.making import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.database.engine import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """With one VPS."""
    made = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(made)
    with made.write() as c:
        making.vps(c)
    yield made
    made.close()


def test_a_key_is_late_a_quarter_of_an_hour_after_the_last_claim(database: Database) -> None:
    """Without a claim never; a second claim begins anew."""
    with database.write() as c:
        assert joining.claimed_at(c, "vps-1") == 0.0
        assert not joining.is_late(c, NOW, "vps-1")
        joining.claimed(c, NOW, "vps-1")
        assert not joining.is_late(c, NOW + joining.WITHIN_S, "vps-1")
        assert joining.is_late(c, NOW + joining.WITHIN_S + 1, "vps-1")
        assert not joining.is_late(c, NOW + joining.WITHIN_S + 1, "vps-2")
        joining.claimed(c, NOW + 600, "vps-1")
        assert joining.claimed_at(c, "vps-1") == NOW + 600
        assert not joining.is_late(c, NOW + joining.WITHIN_S + 1, "vps-1")


def test_the_alarm_says_whether_the_user_could_be_disabled(tmp_path: Path) -> None:
    """And what a person has to do; it is not tried again."""
    with FakeRegistrar(tmp_path / "registrar.sock") as fake:
        alarm = joining.shut_out(Registrar(tmp_path / "registrar.sock"), "vps-1")
        assert fake.told == ["POST /vps/vps-1/disable"]
        assert alarm.permanent
        assert "its user is disabled. Look at vps-secrets-join there" in str(alarm)
        fake.away = True
        alarm = joining.shut_out(Registrar(tmp_path / "registrar.sock"), "vps-1")
        assert "could not be disabled" in str(alarm)
        assert "Keystone does not answer" in str(alarm)
