"""Backups in a real Swift: a versioned container of another project, and a credential that only puts."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from deployer.backup import archives, signing
from deployer.backup.destinations import DestinationError, Swift
from deployer.cloud.errors import CloudError
from deployer.database import backups, deployment
from deployer.database.engine import open_database
from deployer.database.migrating import migrate
from lab.testbed.swift import Swift as Server
from tests.database import making
from tests.database.making import NOW

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystoneauth1.session import Session

    from lab.testbed.cloud import Cloud

CONTAINER = "deployer-backups"


@dataclass(frozen=True)
class Store:
    """The container, its owner's session, and the session that the deployer has."""

    url: str
    owner: Session
    writer: Session

    def status(self, session: Session, method: str, path: str = "") -> int:
        """Return what Swift answers."""
        answer = session.request(self.url + path, method, raise_exc=False, log=False)
        return int(answer.status_code)

    def versions(self) -> list[dict[str, object]]:
        """Return what the owner sees, former versions too."""
        answer = self.owner.get(f"{self.url}?versions&format=json", headers={"Accept": "application/json"})
        return list(json.loads(answer.content))


@pytest.fixture(scope="module")
def store(cloud: Cloud) -> Iterator[Store]:
    """A project of its own for the backups, as the documents say."""
    with Server(cloud) as server:
        accounts = cloud.accounts
        owner = accounts.user("backup-owner", "backups", ["member"])
        writer = accounts.user("backup-writer", "deployment", ["reader"])
        owners = accounts.log_in(owner)
        url = f"{server.url(owner.project_id)}/{CONTAINER}"
        headers = {"X-Container-Write": f"{writer.project_id}:{writer.id}", "X-Versions-Enabled": "true"}
        assert owners.put(url, headers=headers).status_code == 201
        rules = [("PUT", f"{urlsplit(url).path}/*")]
        credential = accounts.application_credential(
            writer, accounts.log_in(writer), "backup", [], objects=rules
        )
        yield Store(url, owners, accounts.log_in_with(credential))


def test_a_backup_is_put_and_only_its_owner_can_open_it(store: Store, tmp_path: Path) -> None:
    """What the deployer wrote, the owner reads; the deployer says that it can't prove it."""
    identity = tmp_path / "identity"
    line = ["age-keygen", "-o", str(identity)]
    recipient = subprocess.run(line, capture_output=True, text=True, check=True).stderr.rpartition(" ")[2]
    database = open_database(f"sqlite:///{tmp_path}/deployer.db")
    migrate(database)
    with database.write() as c:
        making.vps(c)
        own = deployment.identity(c, NOW)
    signer, destination = signing.signer(tmp_path / "key"), Swift(store.writer, store.url)
    record = archives.run(
        database,
        destination,
        NOW,
        signer,
        recipients=[recipient.strip()],
        barbican="https://barbican.example.org/v1",
        cloud=None,
        actor="worker",
    )
    with database.read() as c:
        row = backups.get(c, record)
    assert row is not None
    assert row.state == "written"
    with pytest.raises(DestinationError, match="may only put"):
        archives.prove(database, destination, NOW, record)
    content = store.owner.get(f"{store.url}/{row.object}").content
    opened = archives.open_backup(content, identity, signer.public, NOW, deployment_id=own)
    assert [vps.vps_id for vps in opened.vpses] == ["vps-1"]
    database.close()


def test_the_deployer_can_put_and_nothing_else(store: Store) -> None:
    """Not read, list, delete, or change the container; what it overwrites survives as a former version."""
    destination = Swift(store.writer, store.url)
    destination.put("a.age", b"first")
    for method, path in (
        ("GET", "/a.age"),
        ("HEAD", "/a.age"),
        ("DELETE", "/a.age"),
        ("POST", "/a.age"),
        ("GET", ""),
        ("POST", ""),
        ("PUT", ""),
    ):
        assert store.status(store.writer, method, path) in {401, 403}, method
    # a container with former versions is refused to anybody, before it is asked who
    assert store.status(store.writer, "DELETE") in {401, 403, 409}
    destination.put("a.age", b"second")
    former = [
        version["version_id"]
        for version in store.versions()
        if version["name"] == "a.age" and not version["is_latest"]
    ]
    assert len(former) == 1
    assert store.owner.get(f"{store.url}/a.age?version-id={former[0]}").content == b"first"
    assert destination.prune(NOW) == ()


def test_what_swift_refuses_is_told(store: Store) -> None:
    """A container that is not there, and one of a project that is none."""
    for url in (f"{store.url}-unknown", store.url.replace("AUTH_", "AUTH_0")):
        with pytest.raises(CloudError, match=r"put the backup a\.age into Swift .*HTTP 4\d\d"):
            Swift(store.writer, url).put("a.age", b"")
