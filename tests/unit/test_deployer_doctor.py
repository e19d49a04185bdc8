"""The judgements of ``vps-secrets-deploy doctor``: figures, credentials, disks, units, roles, clocks."""

from __future__ import annotations

import email.utils
import os
from typing import TYPE_CHECKING, Any

import pytest

from common import finding
from common.finding import FAILURE, OK, WARNING, Finding
from deployer.cli import doctor, doctor_cloud, doctor_machine
from deployer.config import reader
from deployer.core.lifetimes import DAY_S, Lifetime
from deployer.database.engine import open_database

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.config.model import Config

NOW = 1_795_000_000.0
WELL: dict[str, Any] = {
    "vps": {"late": 0, "failing": 0, "fine": 3},
    "waiting": 0,
    "rotations": {"inTime": 5, "late": 0, "unattended": 0},
    "byHand": [],
}


@pytest.mark.parametrize(
    ("changes", "level", "what"),
    [
        ({}, OK, "VPSs"),
        ({"vps": {"late": 1, "failing": 0, "fine": 0}}, WARNING, "VPSs"),
        ({"waiting": 2}, FAILURE, "rotations"),
        ({"rotations": {"inTime": 5, "late": 1, "unattended": 0}}, WARNING, "rotations"),
        ({"byHand": ["delete the user"]}, WARNING, "by hand"),
    ],
)
def test_the_fleet(changes: dict[str, Any], level: str, what: str) -> None:
    """What needs somebody has a remedy."""
    found = list(doctor._fleet(WELL | changes))
    assert {one.level for one in found if one.what == what} == {level}
    assert all(one.remedy for one in found if one.level != OK)


@pytest.mark.parametrize(
    ("days", "level"), [(100.0, OK), (10.0, WARNING), (0.5, FAILURE), (-1.0, FAILURE), (None, OK)]
)
def test_a_credential_by_its_days(days: float | None, level: str) -> None:
    """Within a day, and when it has ended, is a failure."""
    ends = None if days is None else NOW + days * DAY_S
    assert doctor._lifetime(Lifetime("x", ends=ends), NOW).level == level


def test_what_nobody_knows_of_a_credential_is_a_warning() -> None:
    """Such as when Keystone did not say."""
    found = doctor._lifetime(Lifetime("x", problem="the worker was not there", renew="do so"), NOW)
    assert (found.level, found.remedy) == (WARNING, "do so")


def test_a_backup() -> None:
    """Good, not read back yet, or none."""
    place = {"name": "nearby", "where": "directory /b", "goodAt": NOW - 60, "provedAt": NOW, "problem": ""}
    assert doctor._backup(place, NOW).level == OK
    assert "not read back" in doctor._backup(place | {"provedAt": None}, NOW).words
    assert doctor._backup(place | {"problem": "old"}, NOW).level == FAILURE


def config_at(folder: Path, more: str = "") -> Config:
    """Return a configuration whose database and backups are in a folder."""
    path = folder / "deployer.toml"
    path.write_text(f'[database]\nurl = "sqlite:///{folder}/d.db"\n{more}')
    return reader.load(path)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """It is told, with what makes it; one without tables is none."""
    config = config_at(tmp_path)
    (found,) = doctor._database(config)
    assert (found.level, found.what) == (FAILURE, "database")
    assert not (tmp_path / "d.db").exists()
    open_database(config.database).close()
    (found,) = doctor._database(config)
    assert "its tables have form none" in found.words


def test_files_that_others_can_read(tmp_path: Path) -> None:
    """The database and the key that signs; a folder of backups that is gone."""
    backup = f'[[backup]]\nname = "n"\ndirectory = "{tmp_path}/gone"\nrecipients = ["age1{"q" * 58}"]\n'
    config = config_at(tmp_path, f'{backup}[signing]\nkey_file = "{tmp_path}/key"\n')
    (tmp_path / "d.db").touch(0o600)
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(0o644)
    found = list(doctor_machine.files(config))
    assert [one.level for one in found if one.what == "database's file"] == [OK]
    assert [one.level for one in found if one.what == "signing key"] == [FAILURE]
    assert any("gone" in one.words for one in found if one.level == FAILURE)


@pytest.mark.parametrize(("left", "level"), [(0.5, OK), (0.05, WARNING), (0.01, FAILURE)])
def test_room_on_a_disk(tmp_path: Path, left: float, level: str) -> None:
    """Of bytes and of files, whatever is less."""
    real = os.statvfs(tmp_path)
    fields = list(real)
    fields[2], fields[4], fields[5], fields[7] = 1000, int(1000 * left), 1000, 900
    assert doctor_machine._room(tmp_path, os.statvfs_result(fields)).level == level
    fields[4], fields[7] = 900, int(1000 * left)
    assert doctor_machine._room(tmp_path, os.statvfs_result(fields)).level == level


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ({"ActiveState": "active", "LastTriggerUSec": "Mon"}, OK),
        ({"ActiveState": "inactive", "UnitFileState": "disabled"}, OK),
        ({"ActiveState": "inactive", "UnitFileState": "enabled"}, FAILURE),
        ({"ActiveState": "failed", "UnitFileState": "enabled", "Result": "exit-code"}, FAILURE),
        ({}, WARNING),
    ],
)
def test_a_unit_that_is_to_run(said: dict[str, str], level: str) -> None:
    """One that is switched off is not for this machine."""
    assert doctor_machine._always("x.service", said).level == level


def test_a_unit_that_runs_now_and_then() -> None:
    """Failed is a failure; not yet is none."""
    assert doctor_machine._now_and_then("x", {"ActiveState": "failed"}).level == FAILURE
    assert doctor_machine._now_and_then("x", {"ActiveState": "inactive"}).words == "not since the boot"
    assert "Mon" in doctor_machine._now_and_then("x", {"ExecMainExitTimestamp": "Mon"}).words


def test_roles_and_the_clock() -> None:
    """More than needed is told, admin is a failure; half a minute is too much."""
    levels = [
        doctor_cloud.roles(frozenset(held)).level for held in (("creator", "reader"), ("x",), ("admin",))
    ]
    assert levels == [OK, WARNING, FAILURE]
    date = email.utils.formatdate(NOW, usegmt=True)
    assert [doctor_cloud.clock(date, NOW + skew).level for skew in (1, 60, -60)] == [OK, FAILURE, FAILURE]
    assert doctor_cloud.clock("", NOW).level == WARNING


def test_how_it_is_printed() -> None:
    """One line each, the remedy below, nothing that moves a cursor; the last line counts."""
    found = [Finding(OK, "a", "b\x1b[2J"), Finding(FAILURE, "c", "d", "e")]
    assert list(finding.lines(found)) == [
        "ok       a: b\\x1b[2J",
        "FAILURE  c: d",
        "         do: e",
        "1 ok, 0 warnings, 1 failures",
    ]
    assert finding.document(found)["failures"] == 1
