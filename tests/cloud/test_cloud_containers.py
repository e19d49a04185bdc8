"""cloud plan, apply, credential and verify with a real Swift: containers of beacons and of backups."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from deployer.backup.destinations import Swift
from deployer.cloud import cloud_apply, cloud_file, object_store
from deployer.cloud.accounts import ApplicationCredential, User
from deployer.cloud.beacon import Beacons
from deployer.cloud.cloud_plan import plan
from deployer.cloud.identity import Identity
from deployer.cloud.verify import backups
from lab.testbed.running import ROOT
from lab.testbed.swift import Swift as Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystoneauth1.session import Session

    from deployer.cloud.cloud_file import CloudFile
    from lab.testbed.cloud import Cloud

FILE = """
[domain]
name = "store-vps"
[secrets]
project = "store-secrets"
[runtime]
project = "store-runtime"
[deployment_service]
user = "store-deployer"
[registrar]
user = "store-accounts"
[beacon]
container = "store-beacons"
[backup]
project = "store-backup"
user = "store-writer"
user_project = "store-writers"
"""


@dataclass(frozen=True)
class Store:
    """A site whose containers cloud apply made."""

    cloud: Cloud
    wanted: CloudFile
    identity: Identity

    @property
    def admin(self) -> Session:
        """The administrator's session."""
        return self.cloud.accounts._session

    def log_in(self, made: cloud_apply.Credential) -> Session:
        """Return a session as a program has it."""
        return self.cloud.accounts.log_in_with(ApplicationCredential(made.id, made.secret))

    def planned(self, wanted: CloudFile | None = None) -> tuple[list[str], list[str]]:
        """Return what is to be made, and what is too much."""
        found = plan(wanted or self.wanted, cloud_apply.read(self.identity, wanted or self.wanted))
        return [str(change) for change in found.changes], list(found.excess)

    def owner(self) -> Session:
        """Return a person's session in the project of the backups."""
        accounts = self.cloud.accounts
        domain = self.identity.find("domains", "Default")
        assert domain is not None
        project = self.identity.find("projects", "store-backup", domain.id)
        assert project is not None
        user = accounts.user("store-owner", "store-other", [])
        role = accounts.role("member")
        self.identity.grant(role, user.id, "project", project.id)
        return accounts.log_in(User(user.name, user.id, project.id, user.password))


@pytest.fixture(scope="module")
def store(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Apply the file to a cloud that has nothing of it but a Swift."""
    path = tmp_path_factory.mktemp("store") / "cloud.toml"
    path.write_text(FILE)
    with Server(cloud):
        made = Store(cloud, cloud_file.load(path), Identity(cloud.accounts._session, cloud.auth_url))
        before, _ = made.planned()
        assert [line for line in before if "container" in line] == before[-2:]
        cloud_apply.apply(made.identity, made.wanted)
        yield made


def test_what_was_made_is_as_the_file_says(store: Store) -> None:
    """Nothing is left to do; no user of these seconds is left; a person may own the backups."""
    assert store.planned() == ([], [])
    store.owner()
    assert store.planned() == ([], [])
    assert [item.name for item in store.identity.all("users") if item.name.startswith("verify-")] == []
    renamed = replace(store.wanted, backup_container="another")
    (change,) = store.planned(renamed)[0]
    assert change.startswith(
        "make the container another in the project store-backup (Default): former versions"
    )


def test_the_credential_of_backups_puts_and_does_nothing_else(store: Store) -> None:
    """As verify tries it; and it is found where it does more, or can't put."""
    made = cloud_apply.new_backup_credential(store.identity, store.admin, store.cloud.auth_url, store.wanted)
    session = store.log_in(made)
    Swift(session, made.url).put("a.age", b"backup")
    owner = store.owner()
    assert owner.get(f"{made.url}/a.age").content == b"backup"
    found = tuple(backups.cells("far", session, made.url))
    assert [cell.good for cell in found] == [True] * 6, found
    assert list(backups.findings(found)) == []
    whole = tuple(backups.cells("far", owner, made.url))
    assert {finding.kind for finding in backups.findings(whole)} == {"backup-does-more"}
    assert len(list(backups.findings(whole))) == 5
    lost = tuple(backups.cells("far", session, f"{made.url}-unknown"))
    assert "backup-is-refused" in {finding.kind for finding in backups.findings(lost)}


def test_others_in_an_acl_are_told_and_left_to_a_person(store: Store) -> None:
    """And apply gives back what a container lacks, without taking anything away."""
    made = cloud_apply.new_backup_credential(store.identity, store.admin, store.cloud.auth_url, store.wanted)
    owner = store.owner()
    headers = {object_store.READ: ".r:*", object_store.WRITE: "p:u"}
    assert owner.post(made.url, headers=headers).status_code == 204
    changes, excess = store.planned()
    assert len(changes) == 1
    assert [line.partition(", ")[0] for line in excess] == [
        "the container vps-secrets-backups can be read by .r:*",
        "the container vps-secrets-backups can be written by p:u",
    ]
    cloud_apply.apply(store.identity, store.wanted)
    assert store.planned() == ([], excess)
    Swift(store.log_in(made), made.url).put("b.age", b"again")
    own = owner.head(made.url).headers[object_store.WRITE].replace("p:u", "").strip(",")
    owner.post(made.url, headers={object_store.READ: "", object_store.WRITE: own})
    assert store.planned() == ([], [])


def test_the_worker_s_credential_touches_beacons_and_reads_none(store: Store) -> None:
    """Its access rules have the container's path: put there, and nowhere else."""
    made = cloud_apply.new_credential(
        store.identity,
        store.admin,
        store.cloud.auth_url,
        store.wanted.deployer,
        store.wanted.secrets,
        container=store.wanted.beacon_container,
    )
    session = store.log_in(made)
    beacons = Beacons(session, made.url)
    beacons.touch("vps-1")
    beacons.touch("vps-1")
    for method, path in (("GET", "/vps-1"), ("DELETE", "/vps-1"), ("POST", ""), ("PUT", "")):
        answer = session.request(made.url + path, method, raise_exc=False, log=False)
        assert answer.status_code == 401, method


def test_by_the_command_until_verify_says_so(store: Store, tmp_path: Path) -> None:
    """The credentials of worker, registrar and backups come in files; verify tries all three."""
    (tmp_path / "cloud.toml").write_text(FILE)
    token = str(store.admin.get_token())
    config = tmp_path / "deployer.toml"
    text = (
        f'[cloud]\nfile = "{tmp_path}/cloud.toml"\n[keystone]\nauth_url = "{store.cloud.auth_url}"\n'
        f'[registrar]\nusername = "store-accounts"\ndomain = "store-vps"\n'
        f'credential_file = "{tmp_path}/registrar"\n'
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deployer.cli", "cloud", *words, "--config", str(config)]
        command += ["--admin-token", "-"]
        return subprocess.run(command, input=token, capture_output=True, text=True, cwd=ROOT, check=False)

    config.write_text(text)
    said = {}
    for account in ("deployment-service", "registrar", "backup"):
        made = run("credential", account, "--output", f"{tmp_path}/{account}")
        assert made.returncode == 0, made.stderr
        said[account] = made.stdout
    assert '[beacon] url = "http' in said["deployment-service"]
    url = said["backup"].partition('swift = "')[2].partition('"')[0]
    ids = {account: line.partition("its id is ")[2].partition(":")[0] for account, line in said.items()}
    place = (
        f'[[backup]]\nname = "far"\nswift = "{url}"\ncredential_file = "{tmp_path}/%s"\n'
        f'application_credential_id = "{ids["backup"]}"\nrecipients = ["age1{"q" * 58}"]\n'
    )
    text += (
        f'[worker]\napplication_credential_id = "{ids["deployment-service"]}"\n'
        f'credential_file = "{tmp_path}/deployment-service"\n'
    )
    config.write_text(text + place % "backup")
    verified = run("verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    report = json.loads(verified.stdout)
    assert report["leftOut"] == []
    assert [cell["good"] for cell in report["cells"] if cell["actor"] == "backup far"] == [True] * 6
    config.write_text(text + place % "none")
    without = run("verify")
    assert (without.returncode, "not looked at: what the backup far may do: read " in without.stdout) == (
        0,
        True,
    )
