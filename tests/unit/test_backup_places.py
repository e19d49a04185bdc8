"""Where the configuration wants backups, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from common.errors import ConfigurationError
from deployer.api.backup_health import health
from deployer.backup.destinations import DestinationError, Directory, Swift
from deployer.backup.places import RETRY_S, destination, is_due
from deployer.config.credentials import CredentialError
from deployer.config.reader import load
from deployer.database import backups
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from tests.database.making import DAY, NOW

if TYPE_CHECKING:
    from pathlib import Path

    from deployer.config.model import Config

CANARY: Final = "canary-2c4e"
RECIPIENT: Final = "age1" + "q" * 58
KEYSTONE: Final = '[keystone]\nauth_url = "https://keystone.example.org/v3"\n'
BACKUPS: Final = f"""
[[backup]]
name = "nearby"
directory = "/var/backups/deployer"
recipients = ["{RECIPIENT}"]
every = "1d"
[[backup]]
name = "elsewhere"
swift = "https://swift.example.org/v1/AUTH_backup/deployer"
application_credential_id = "{"0" * 32}"
recipients = ["{RECIPIENT}"]
"""


def config(tmp_path: Path, text: str) -> Config:
    """Return a configuration."""
    path = tmp_path / "deployer.toml"
    path.write_text(text)
    return load(path)


def test_each_place_is_what_the_file_says(tmp_path: Path) -> None:
    """Its credential is read where systemd puts it, and shown nowhere."""
    (tmp_path / "backup-elsewhere").write_text(CANARY)
    (tmp_path / "backup-elsewhere").chmod(0o400)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    wanted = config(tmp_path, KEYSTONE + BACKUPS)
    near, far = (destination(wanted, place, environ) for place in wanted.backups)
    assert isinstance(near, Directory)
    assert isinstance(far, Swift)
    assert near.where == wanted.backups[0].where == "directory /var/backups/deployer"
    assert far.where == wanted.backups[1].where == "Swift https://swift.example.org/v1/AUTH_backup/deployer"
    assert (near.readable, far.readable) == (True, False)
    assert CANARY not in repr((near, far))
    with pytest.raises(DestinationError, match="may only put"):
        far.get("a.age")
    assert far.prune(NOW) == ()


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    """A credential, and Keystone."""
    found = config(tmp_path, KEYSTONE + BACKUPS)
    with pytest.raises(CredentialError):
        destination(found, found.backups[1], {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    found = config(tmp_path, BACKUPS)
    with pytest.raises(ConfigurationError, match="keystone: is needed for a backup in Swift"):
        destination(found, found.backups[1], {})


def test_a_backup_is_due_when_none_is_good_and_recent(tmp_path: Path) -> None:
    """One that failed is tried again, but not at once; one that was found wrong counts as none."""
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    place = config(tmp_path, KEYSTONE + BACKUPS).backups[0]
    where = place.where
    with database.write() as c:
        backups.failed(c, NOW, backups.begin(c, NOW, "another place", "worker"), "")
        assert is_due(c, place, NOW)
        backups.failed(c, NOW, backups.begin(c, NOW, where, "worker"), "disk full")
        assert not is_due(c, place, NOW + RETRY_S - 1)
        assert is_due(c, place, NOW + RETRY_S)
        good = backups.begin(c, NOW + RETRY_S, where, "worker")
        backups.written(c, NOW + RETRY_S, good, "a.age", "d", size=1, vpses=1, secrets=1)
        assert not is_due(c, place, NOW + RETRY_S + DAY - 1)
        assert is_due(c, place, NOW + RETRY_S + DAY)
        backups.proved(c, NOW + RETRY_S, good)
        assert not is_due(c, place, NOW + 2 * RETRY_S)
        backups.failed(c, NOW + RETRY_S, good, "not what was written")
        assert is_due(c, place, NOW + 2 * RETRY_S)
    database.close()


def test_a_place_that_needs_somebody_says_why(tmp_path: Path) -> None:
    """None yet; one that is good; the last try failed, though a good one is recent; none for too long."""
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    wanted = config(tmp_path, KEYSTONE + BACKUPS).backups[:1]
    with database.write() as c:
        (place,) = health(c, NOW, wanted)
        assert (place.problem, place.good_at, place.age_s(NOW)) == (
            "no backup has been made yet",
            None,
            float("inf"),
        )
        good = backups.begin(c, NOW, wanted[0].where, "worker")
        assert health(c, NOW, wanted)[0].problem == "no backup has been made yet"  # it is being made
        backups.written(c, NOW, good, "a.age", "d", size=1, vpses=1, secrets=1)
        (place,) = health(c, NOW + 60, wanted)
        assert (place.name, place.problem, place.age_s(NOW + 60)) == ("nearby", "", 60.0)
        assert health(c, NOW + 2 * DAY, wanted)[0].problem == ""
        (place,) = health(c, NOW + 3 * DAY, wanted)
        assert place.problem == "the last good one is 3 d old, and one is due every 24 h"
        failed = backups.begin(c, NOW + DAY, wanted[0].where, "worker")
        assert health(c, NOW + DAY, wanted)[0].problem == ""  # under way
        backups.failed(c, NOW + DAY, failed, "the disk is full.")
        (place,) = health(c, NOW + DAY, wanted)
        assert place.problem == "the last try failed: the disk is full."
        assert place.good_at == NOW
    database.close()
