"""Backups with the real ``age``: from the database to a directory, and opened with the private key."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import pytest

from deployer.backup import age, archives, restoring, signing
from deployer.backup.destinations import KEEP_S, DestinationError, Directory, name_of
from deployer.core import backup_format
from deployer.core.backup_format import Backup, RefusedBackupError
from deployer.core.model import Observed
from deployer.database import backups, blueprints, deployment, history, secrets, vpses
from deployer.database.engine import open_database
from deployer.database.errors import NotFoundError
from deployer.database.migrating import migrate
from lab.testbed.running import ROOT
from tests.database import making
from tests.database.making import NOW, OWNER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deployer.database.backups import BackupRow
    from deployer.database.engine import Database

BASE: Final = "https://barbican.example.org:9311/v1"
CLOUD: Final = "[cloud]\n"


@dataclass(frozen=True)
class Site:
    """A deployment with two VPSs, a directory for its backups, and the operator's offline key."""

    database: Database
    directory: Directory
    place: Path
    signer: signing.Signer
    identity: Path
    recipient: str

    def names(self) -> list[str]:
        """Return what lies in the directory."""
        return sorted(path.name for path in self.place.iterdir())

    def run(self, now: float = NOW) -> BackupRow:
        """Make a backup and return its record."""
        record = archives.run(
            self.database,
            self.directory,
            now,
            self.signer,
            recipients=[self.recipient],
            barbican=BASE,
            cloud=CLOUD,
            actor="worker",
        )
        with self.database.read() as c:
            row = backups.get(c, record)
        assert row is not None
        return row

    def open(self, content: bytes, now: float = NOW, public: str = "") -> Backup:
        """Open a backup as the operator does."""
        with self.database.write() as c:
            own = deployment.identity(c, NOW)
        signed_by = public or self.signer.public
        return archives.open_backup(content, self.identity, signed_by, now, deployment_id=own)


def key(path: Path) -> str:
    """Make a private key; return its public one."""
    line = ["age-keygen", "-o", str(path)]
    said = subprocess.run(line, capture_output=True, text=True, check=True).stderr
    return said.rpartition(" ")[2].strip()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A deployment."""
    place = tmp_path / "backups"
    place.mkdir()
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    with database.write() as c:
        for vps_id in ("vps-1", "vps-2", "vps-3"):
            making.vps(c, vps_id, site="ams")
            secrets.seen(c, vps_id, [making.secret("A"), secrets.SeenSecret("B", "external", "B")])
        vpses.claim_due(c, NOW, OWNER, 60)
        vpses.seen(c, NOW, "vps-1", OWNER, container=making.uuid(9), user_id="u1")
        vpses.order(c, NOW, "vps-2", "revoked", "olga")
        vpses.order(c, NOW, "vps-3", "retired", "olga")
    identity = tmp_path / "identity"
    recipient = key(identity)
    yield Site(database, Directory(place), place, signing.signer(tmp_path / "key"), identity, recipient)
    database.close()


def test_a_backup_says_what_the_database_knows(site: Site) -> None:
    """Written for its owner only, recorded, proved, and readable with the private key alone."""
    row = site.run()
    (path,) = site.place.iterdir()
    assert (row.state, row.object, row.size) == ("written", path.name, path.stat().st_size)
    assert (row.vpses, row.secrets) == (2, 4)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(word in path.read_bytes() for word in (b"vps-1", b"backend", making.uuid(9).encode()))
    archives.prove(site.database, site.directory, NOW + 1, row.id)
    with site.database.read() as c:
        proved = backups.get(c, row.id)
        actions = [line.action for line in history.page(c)]
    assert proved is not None
    assert (proved.state, proved.proved_at) == ("proved", NOW + 1)
    assert "backup.begin" in actions
    backup = site.open(path.read_bytes())
    first, second = backup.vpses
    assert (first.vps_id, first.container, first.user_id, first.labels) == (
        *("vps-1", making.uuid(9), "u1"),
        {"site": "ams"},
    )
    assert (second.vps_id, second.wanted) == ("vps-2", "revoked")
    secret = first.secrets[making.made("A", 1).name]
    assert (secret.version, secret.due) == (making.uuid(1), float(int(NOW + making.DAY)))
    assert (backup.cloud, list(backup.blueprints)) == (CLOUD, ["backend"])


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Database]:
    """A new database in the place of one that was lost."""
    made = open_database(f"sqlite:///{tmp_path}/new.db")
    migrate(made)
    yield made
    made.close()


def test_a_lost_database_comes_back_from_a_backup(site: Site, lost: Database) -> None:
    """The same deployment wants the same, who may read is known, and a revoked VPS stays revoked."""
    site.run()
    backup = site.open((site.place / site.names()[0]).read_bytes())
    with lost.write() as c:
        restored = restoring.restore(c, NOW + 9, backup, "olga")
    assert (restored.vpses, restored.there) == (2, 0)
    assert [remark.partition(":")[0] for remark in restored.remarks] == ["vps-1/B", "vps-2/B"]
    with lost.write() as c:
        assert deployment.identity(c, NOW) == backup.deployment
        again = archives.gather(c, backup.made, backup.deployment, BASE, CLOUD)
        # what each has is Barbican's to tell; that there was one is known, or a lost key that old data need
        # would be made anew
        forgotten = tuple(
            replace(
                vps,
                secrets={
                    name: replace(secret, version=None, due=None)
                    for name, secret in vps.secrets.items()
                    if secret.created is not None
                },
            )
            for vps in backup.vpses
        )
        assert [len(vps.secrets) for vps in forgotten] == [1, 1]
        assert again == replace(backup, vpses=forgotten)
        first = vpses.claim_due(c, NOW + 9, OWNER, 60)
        assert first is not None
        assert (first.id, first.urgent) == ("vps-2", vpses.EMERGENCY)
        lines = len(history.page(c))
        once_more = restoring.restore(c, NOW + 9, backup, "olga")
        assert (once_more.vpses, once_more.there, once_more.remarks) == (0, 2, ())
        assert len(history.page(c)) == lines + 1


def test_what_the_database_knows_is_not_replaced(site: Site, lost: Database) -> None:
    """Not a VPS, not a blueprint, and not another deployment."""
    site.run()
    backup = site.open((site.place / site.names()[0]).read_bytes())
    with site.database.write() as c:
        making.blueprint(c, "frontend")
        blueprints.put(c, NOW + 1, "backend", "# newer\n", "olga")
        restored = restoring.restore(c, NOW + 9, backup, "olga")
        assert (restored.vpses, restored.there) == (0, 2)
        assert restored.remarks == ("blueprint backend: another one has been applied since, which stays",)
        row = vpses.get(c, "vps-1")
        assert row is not None
        assert row.container == making.uuid(9)
    with lost.write() as c:
        making.vps(c, "vps-7")
        with pytest.raises(RefusedBackupError, match="VPSs of deployment"):
            restoring.restore(c, NOW, backup, "olga")


def test_what_barbican_lists_is_adopted(site: Site, lost: Database) -> None:
    """Without a backup: with one blueprint, and what Barbican can't tell is told."""
    observed = {
        "vps-1": Observed(container=making.uuid(9), granted_to="u1"),
        "vps-2": Observed(container=making.uuid(8), granted_to=""),
        "vps-3": Observed(),
    }
    with lost.write() as c:
        with pytest.raises(NotFoundError):
            restoring.adopt(c, NOW, observed, "backend", "olga")
        making.blueprint(c)
        adopted = restoring.adopt(c, NOW, observed, "backend", "olga")
        assert (adopted.vpses, adopted.there) == (2, 0)
        assert [line for line in adopted.remarks if "revoked" in line] == [
            "vps-2: its ACLs name nobody: taken for revoked"
        ]
        known = {row.id: (row.user_id, row.container, row.wanted) for row in vpses.page(c)}
        assert known == {
            "vps-1": ("u1", making.uuid(9), "present"),
            "vps-2": ("", making.uuid(8), "revoked"),
        }
        assert restoring.adopt(c, NOW, observed, "backend", "olga") == restoring.Restored(0, 2, ())
    assert site.names() == []


def test_a_fleet_larger_than_a_page_is_in_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole."""
    monkeypatch.setattr(archives, "PAGE", 1)
    assert site.run().vpses == 2


def test_what_was_damaged_is_refused(site: Site) -> None:
    """A bit anywhere, or an end that is missing."""
    site.run()
    (path,) = site.place.iterdir()
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        with pytest.raises(RefusedBackupError, match="can't be decrypted"):
            site.open(bytes(damaged))
        with pytest.raises(RefusedBackupError, match="damaged, or cut off"):
            site.open(whole[:place])
    assert site.open(whole).vpses


def test_what_was_forged_is_refused(site: Site, tmp_path: Path) -> None:
    """By who knows the public key, which is public, and can write where backups lie."""
    site.run()
    (path,) = site.place.iterdir()
    true = site.open(path.read_bytes())
    said = backup_format.encode(true)
    stranger = signing.signer(tmp_path / "stranger")
    for forged in (said, stranger.sign(said), site.signer.sign(said).replace(b"vps-1", b"vps-9")):
        with pytest.raises(RefusedBackupError, match="may be forged"):
            site.open(age.encrypt(forged, [site.recipient]))
    with pytest.raises(RefusedBackupError, match="may be forged"):
        site.open(path.read_bytes(), public=stranger.public)


def test_one_of_another_deployment_or_time_is_refused(site: Site) -> None:
    """Though it is whole, and signed by this one."""
    site.run()
    (path,) = site.place.iterdir()
    with pytest.raises(RefusedBackupError, match="old; at most 7 d are taken"):
        site.open(path.read_bytes(), NOW + 8 * 86400)
    with site.database.write() as c:
        deployment.become(c, NOW, str(making.uuid(5)), "olga")
    with pytest.raises(RefusedBackupError, match="of deployment"):
        site.open(path.read_bytes())


def test_the_wrong_key_is_told(site: Site, tmp_path: Path) -> None:
    """Another one, a file that holds none, no file at all."""
    site.run()
    (path,) = site.place.iterdir()
    other, none = tmp_path / "other", tmp_path / "none"
    key(other)
    for identity, words in ((other, "encrypted to other keys"), (none, "identity can't be read")):
        with pytest.raises(RefusedBackupError, match=words):
            age.decrypt(path.read_bytes(), identity)
    none.write_text("no key\n")
    with pytest.raises(RefusedBackupError, match="identity can't be read, or holds none"):
        age.decrypt(path.read_bytes(), none)


@pytest.mark.parametrize("recipients", [[], ["age1short"], ["--decrypt"], ["-o/tmp/x"], ["ssh-ed25519 AAAA"]])
def test_a_recipient_that_is_none_is_refused(site: Site, recipients: list[str]) -> None:
    """Before age is asked; the record says why, and nothing is written."""
    with pytest.raises(age.EncryptionError, match="recipients are public keys"):
        archives.run(
            site.database,
            site.directory,
            NOW,
            site.signer,
            recipients=recipients,
            barbican=BASE,
            cloud=None,
            actor="worker",
        )
    with site.database.read() as c:
        (row,) = backups.page(c)
    assert (row.state, "recipients" in row.error) == ("failed", True)
    assert list(site.place.iterdir()) == []


def test_a_recipient_that_only_looks_like_one_is_told(site: Site) -> None:
    """Its check sum is wrong: age itself refuses."""
    wrong = site.recipient[:-1] + ("q" if site.recipient[-1] != "q" else "p")
    with pytest.raises(age.EncryptionError, match="Check the recipients"):
        age.encrypt(b"x", [wrong])


def test_what_nobody_could_read_is_not_written(site: Site) -> None:
    """Such as a version that is none, however it came into the database."""
    with site.database.write() as c:
        secrets.seen(c, "vps-1", [replace(making.secret("A"), current="none")])
    with pytest.raises(RefusedBackupError, match="ref is not a reference"):
        site.run()
    assert site.names() == []


def test_a_machine_without_age_is_told(monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """With the line that installs it."""
    monkeypatch.setattr(age, "PROGRAM", "/nowhere/age")
    with pytest.raises(age.EncryptionError, match="apt-get install age"):
        site.run()


def test_what_lies_there_is_never_replaced(site: Site) -> None:
    """Nor is anything incomplete left."""
    site.directory.put("a.age", b"first")
    with pytest.raises(DestinationError, match="File exists"):
        site.directory.put("a.age", b"second")
    assert site.directory.get("a.age") == b"first"
    assert site.names() == ["a.age"]


def test_a_directory_that_can_not_be_used_is_told(site: Site, tmp_path: Path) -> None:
    """To write, to read, to delete; the record of a backup says so."""
    nowhere = Directory(tmp_path / "nowhere")
    for step in (
        lambda: nowhere.put("a.age", b""),
        lambda: nowhere.get("a.age"),
        lambda: nowhere.prune(NOW),
    ):
        with pytest.raises(DestinationError, match=r"directory .*/nowhere: No such file or directory\."):
            step()
    with pytest.raises(DestinationError):
        Site(site.database, nowhere, site.place, site.signer, site.identity, site.recipient).run()
    with site.database.read() as c:
        (row,) = backups.page(c)
    assert row.state == "failed"
    assert "No such file" in row.error


def test_ninety_days_are_kept_and_always_the_newest(site: Site) -> None:
    """Other files are left alone."""
    names = [name_of(NOW - age_s) for age_s in (KEEP_S + 200, KEEP_S + 100, KEEP_S - 100)]
    for name in (*names, "diary.txt", "20200101T000000Z-00000000.age.part"):
        site.directory.put(name, b"")
    assert site.directory.prune(NOW) == tuple(names[:2])
    assert site.directory.prune(NOW + 10 * KEEP_S) == ()
    assert site.names() == sorted([names[2], "diary.txt", "20200101T000000Z-00000000.age.part"])
    site.run()
    assert names[2] in site.names()


@pytest.mark.parametrize(
    ("left", "words"), [(b"another one", "not what was written"), (None, "No such file")]
)
def test_a_backup_that_is_not_there_any_more_is_not_proved(
    site: Site, left: bytes | None, words: str
) -> None:
    """Nor one that was exchanged: the record says so."""
    row = site.run()
    path = site.place / row.object
    path.unlink()
    if left is not None:
        path.write_bytes(left)
    with pytest.raises(RefusedBackupError, match=words):
        archives.prove(site.database, site.directory, NOW, row.id)
    with site.database.read() as c:
        after = backups.get(c, row.id)
    assert after is not None
    assert after.state == "failed"
    with pytest.raises(RefusedBackupError, match="no record"):
        archives.prove(site.database, site.directory, NOW, "b")


def test_one_place_that_fails_keeps_no_other_from_its_backup(site: Site, tmp_path: Path) -> None:
    """A credential that is not there, a folder that is none: each is told, and kept as a place's failure."""
    recipients = f'recipients = ["{site.recipient}"]\n'
    (tmp_path / "deployer.toml").write_text(
        f'[database]\nurl = "sqlite:///{tmp_path}/deployer.db"\n'
        '[keystone]\nauth_url = "https://keystone.example/v3"\nendpoint_override = "https://barbican.example"\n'
        f'[signing]\nkey_file = "{tmp_path}/key"\n'
        f'[[backup]]\nname = "far"\nswift = "https://swift.example/v1/AUTH_b/c"\n'
        f'application_credential_id = "{"0" * 32}"\ncredential_file = "{tmp_path}/none"\n{recipients}'
        f'[[backup]]\nname = "gone"\ndirectory = "{tmp_path}/gone"\n{recipients}'
        f'[[backup]]\nname = "near"\ndirectory = "{site.place}"\n{recipients}'
    )

    def run(*words: str) -> tuple[int, str]:
        command = [
            sys.executable,
            "-m",
            "deployer.cli",
            "backup",
            *words,
            "--config",
            f"{tmp_path}/deployer.toml",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stdout + done.stderr

    code, said = run("run", "--if-due")
    assert (code, len(site.names())) == (1, 1), said
    assert "far: read " in said
    assert f"gone: write the backup to directory {tmp_path}/gone" in said
    with site.database.read() as c:
        states = {row.destination: (row.state, bool(row.error)) for row in backups.page(c)}
    assert states == {
        "Swift https://swift.example/v1/AUTH_b/c": ("failed", True),
        f"directory {tmp_path}/gone": ("failed", True),
        f"directory {site.place}": ("written", False),
    }
    code, said = run("prove")
    assert (code, "far: not proved: only its owner can read it" in said) == (1, True), said
    assert run("run", "--if-due") == (0, "no backup is due\n")  # a failed one is tried again, but not at once


@pytest.mark.parametrize("words", ["backup run", "backup prove", "look --all"])
def test_a_database_without_tables_is_told(site: Site, tmp_path: Path, words: str) -> None:
    """A file that was lost and made anew: the commands that expect tables say so, in words."""
    path = tmp_path / "deployer.toml"
    path.write_text(
        f'[database]\nurl = "sqlite:///{tmp_path}/empty.db"\n'
        '[keystone]\nauth_url = "https://keystone.example/v3"\n'
        f'[[backup]]\nname = "near"\ndirectory = "{site.place}"\nrecipients = ["{site.recipient}"]\n'
    )
    command = [sys.executable, "-m", "deployer.cli", *words.split(), "--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "its tables have form none" in done.stderr
    assert "when the deployer's service starts" in done.stderr
